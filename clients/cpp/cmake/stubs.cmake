# ELDR_STUBS: sources made from the protos by protoc, in ELDR_STUBS_DIR.
find_program(ELDR_GRPC_PLUGIN grpc_cpp_plugin REQUIRED)
set(ELDR_STUBS_DIR ${CMAKE_CURRENT_BINARY_DIR}/stubs)
set(ELDR_STUBS)
file(MAKE_DIRECTORY ${ELDR_STUBS_DIR})

function(eldr_stubs folder name kind)
  set(made ${ELDR_STUBS_DIR}/${name})
  add_custom_command(
    OUTPUT ${made}${kind}.cc ${made}${kind}.h
    COMMAND protobuf::protoc ${ARGN} -I ${ELDR_PROTOS} -I ${CMAKE_CURRENT_SOURCE_DIR}/protos
      ${folder}/${name}.proto
    DEPENDS ${folder}/${name}.proto
    VERBATIM)
  set_source_files_properties(${made}${kind}.cc PROPERTIES COMPILE_OPTIONS -w)
  set(ELDR_STUBS ${ELDR_STUBS} ${made}${kind}.cc PARENT_SCOPE)
endfunction()

set(own ${CMAKE_CURRENT_SOURCE_DIR}/protos)
eldr_stubs(${own} google/rpc/status .pb --cpp_out ${ELDR_STUBS_DIR})
eldr_stubs(${own} eldr/client/details .pb --cpp_out ${ELDR_STUBS_DIR})
eldr_stubs(${ELDR_PROTOS} eldr/v1/activation .pb --cpp_out ${ELDR_STUBS_DIR})
eldr_stubs(${ELDR_PROTOS} eldr/v1/router .pb --cpp_out ${ELDR_STUBS_DIR})
eldr_stubs(${ELDR_PROTOS} eldr/v1/router .grpc.pb --grpc_out ${ELDR_STUBS_DIR}
  --plugin protoc-gen-grpc=${ELDR_GRPC_PLUGIN})
