# eldr::grpc, from gRPC's own package where it has one (vcpkg, Conan, a build from source), else by
# pkg-config (Debian).
if(NOT TARGET eldr::grpc)
  add_library(eldr::grpc INTERFACE IMPORTED)
  find_package(gRPC CONFIG QUIET)
  if(gRPC_FOUND)
    target_link_libraries(eldr::grpc INTERFACE gRPC::grpc++)
  else()
    find_package(PkgConfig REQUIRED)
    pkg_check_modules(ELDR_GRPC REQUIRED IMPORTED_TARGET grpc++)
    target_link_libraries(eldr::grpc INTERFACE PkgConfig::ELDR_GRPC)
  endif()
endif()
