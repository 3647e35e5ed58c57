/* Stands in for libnvinfer, libnvinfer_plugin and libnvonnxparser: the Python bindings of TensorRT
   import once these names resolve. Whoever calls one gets NULL. */
#define STUB(name) \
    void *name(void) { return 0; }
STUB(createInferBuilder_INTERNAL)
STUB(createInferRefitter_INTERNAL)
STUB(createInferRuntime_INTERNAL)
STUB(createNvOnnxParser_INTERNAL)
STUB(createNvOnnxParserRefitter_INTERNAL)
STUB(getBuilderPluginRegistry)
STUB(getNvOnnxParserVersion)
STUB(getPluginRegistry)
STUB(initLibNvInferPlugins)
