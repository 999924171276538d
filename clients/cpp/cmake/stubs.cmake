# eldr-stubs: what protoc makes of the protos, in ELDR_STUBS_DIR.
find_program(ELDR_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)
set(ELDR_STUBS_DIR ${CMAKE_CURRENT_BINARY_DIR}/stubs)
file(MAKE_DIRECTORY ${ELDR_STUBS_DIR})
add_library(eldr-stubs OBJECT)
set_target_properties(eldr-stubs PROPERTIES POSITION_INDEPENDENT_CODE ON
  UNITY_BUILD OFF)  # files of protoc define the same static names
target_compile_features(eldr-stubs PRIVATE cxx_std_20)
target_compile_options(eldr-stubs PRIVATE -w)
target_include_directories(eldr-stubs PRIVATE ${ELDR_STUBS_DIR})
target_link_libraries(eldr-stubs PRIVATE eldr::grpc protobuf::libprotobuf)

function(eldr_stubs folder name kind)
  set(made ${ELDR_STUBS_DIR}/${name}${kind})
  add_custom_command(
    OUTPUT ${made}.cc ${made}.h
    COMMAND protobuf::protoc ${ARGN} -I ${ELDR_PROTOS} -I ${CMAKE_CURRENT_SOURCE_DIR}/protos
      ${folder}/${name}.proto
    DEPENDS ${folder}/${name}.proto
    VERBATIM)
  target_sources(eldr-stubs PRIVATE ${made}.cc ${made}.h)
endfunction()

set(own ${CMAKE_CURRENT_SOURCE_DIR}/protos)
eldr_stubs(${own} google/rpc/status .pb --cpp_out ${ELDR_STUBS_DIR})
eldr_stubs(${own} eldr/client/details .pb --cpp_out ${ELDR_STUBS_DIR})
eldr_stubs(${ELDR_PROTOS} eldr/v1/activation .pb --cpp_out ${ELDR_STUBS_DIR})
eldr_stubs(${ELDR_PROTOS} eldr/v1/router .pb --cpp_out ${ELDR_STUBS_DIR})
eldr_stubs(${ELDR_PROTOS} eldr/v1/router .grpc.pb --grpc_out ${ELDR_STUBS_DIR}
  --plugin protoc-gen-grpc=${ELDR_GRPC_PLUGIN})
