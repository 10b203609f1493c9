// node-addon-api with the settings that every build of the addon shares. Include this file and never <napi.h> itself.
#pragma once

// Node-API 8 has everything that is used here, and the oldest supported version of Node has it.
#define NAPI_VERSION 8
// Errors are exceptions. Exceptions of the standard library (no memory, no thread) become JavaScript errors, too: an
// exception that left a function of the addon would end the process.
#define NODE_ADDON_API_CPP_EXCEPTIONS_ALL
// An error that cannot be thrown, because its worker is being terminated, is dropped. It too would end the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS

#include <napi.h>
