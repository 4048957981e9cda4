# Fails when an object compiled for one instruction set defines a weak (mergeable) function.
# cmake -DOBJECTS="a.o;b.o" -DNM=nm -P check_isa_symbols.cmake
foreach(object IN LISTS OBJECTS)
  if(object MATCHES "kernels_[a-z0-9_]+\\.cpp\\.")
    execute_process(COMMAND ${NM} --defined-only -C ${object} OUTPUT_VARIABLE symbols RESULT_VARIABLE status)
    if(NOT status EQUAL 0)
      message(FATAL_ERROR "${NM} could not read ${object}")
    endif()
    string(REGEX MATCHALL "[^\n]* [WVu] [^\n]*" weak "${symbols}")
    # The reference to the personality routine is data the compiler emits per object, the same for every ISA.
    list(FILTER weak EXCLUDE REGEX "DW\\.ref\\.")
    if(weak)
      string(REPLACE ";" "\n  " weak "${weak}")
      message(FATAL_ERROR "${object} shares inline functions with other instruction sets:\n  ${weak}")
    endif()
  endif()
endforeach()
