/* Replaces libnvinfer, libnvonnxparser and libnvinfer_plugin of TensorRT 11.
 *
 * TensorRT's Python bindings link against these three and call a few C functions in them. TensorRT for RTX has the
 * same functions, and its parser and builder need no GPU, but each function compares the caller's version number
 * with its own. The shim forwards every call with the version number that TensorRT for RTX expects.
 * AGEMOE_RTX_BUILDER and AGEMOE_RTX_PARSER name the two real libraries.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*version_of)(void);

static void *function(const char *variable, const char *name) {
    const char *path = getenv(variable);
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : NULL;
    void *found = library ? dlsym(library, name) : NULL;
    if (!found) {
        fprintf(stderr, "trt_cpu: %s=%s has no %s\n", variable, path ? path : "", name);
        abort();
    }
    return found;
}

#define BUILDER(name) function("AGEMOE_RTX_BUILDER", name)
#define PARSER(name) function("AGEMOE_RTX_PARSER", name)
#define BUILDER_VERSION ((version_of)BUILDER("getInferLibVersion"))()
#define PARSER_VERSION ((version_of)PARSER("getNvOnnxParserVersion"))()

typedef void *(*create_from_one)(void *, int);
typedef void *(*create_from_two)(void *, void *, int);

void *createInferBuilder_INTERNAL(void *logger, int version) {
    (void)version;
    return ((create_from_one)BUILDER("createInferBuilder_INTERNAL"))(logger, BUILDER_VERSION);
}

void *createInferRuntime_INTERNAL(void *logger, int version) {
    (void)version;
    return ((create_from_one)BUILDER("createInferRuntime_INTERNAL"))(logger, BUILDER_VERSION);
}

void *createInferRefitter_INTERNAL(void *engine, void *logger, int version) {
    (void)version;
    return ((create_from_two)BUILDER("createInferRefitter_INTERNAL"))(engine, logger, BUILDER_VERSION);
}

void *getBuilderPluginRegistry(int capability) {
    return ((void *(*)(int))BUILDER("getBuilderPluginRegistry"))(capability);
}

void *getPluginRegistry(void) { return ((void *(*)(void))BUILDER("getPluginRegistry"))(); }

int getNvOnnxParserVersion(void) { return PARSER_VERSION; }

void *createNvOnnxParser_INTERNAL(void *network, void *logger, int version) {
    (void)version;
    return ((create_from_two)PARSER("createNvOnnxParser_INTERNAL"))(network, logger, PARSER_VERSION);
}

void *createNvOnnxParserRefitter_INTERNAL(void *refitter, void *logger, int version) {
    (void)version;
    return ((create_from_two)PARSER("createNvOnnxParserRefitter_INTERNAL"))(refitter, logger, PARSER_VERSION);
}

int initLibNvInferPlugins(void *logger, const char *name) {
    (void)logger;
    (void)name;
    return 1;
}
