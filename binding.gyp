{
  # The same addon as CMakeLists.txt builds, from the same list of sources.
  'targets': [
    {
      'target_name': 'fused_preference_loss',
      'sources': ["<!@(node -p \"require('fs').readFileSync('native/sources.txt', 'utf8').trim().split(/\\s+/).join(' ')\")"],
      'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")"],
      'cflags!': ['-fno-exceptions'],
      'cflags_cc!': ['-fno-exceptions', '-std=gnu++17', '-std=gnu++20'],
      'cflags_cc': ['-std=c++17', '-O3', '-ffp-contract=off', '-fvisibility=hidden', '-Wall', '-Wextra'],
      'conditions': [
        ['OS!="mac" and OS!="win"', { 'ldflags': ['-Wl,--version-script=<(module_root_dir)/native/addon/exports.map'] }],
      ],
      'xcode_settings': {
        'GCC_ENABLE_CPP_EXCEPTIONS': 'YES',
        'CLANG_CXX_LANGUAGE_STANDARD': 'c++17',
        'GCC_OPTIMIZATION_LEVEL': '3',
        'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
        'MACOSX_DEPLOYMENT_TARGET': '11.0',
        'OTHER_CPLUSPLUSFLAGS': ['-ffp-contract=off'],
      },
      'msvs_settings': {
        'VCCLCompilerTool': { 'ExceptionHandling': 1, 'FloatingPointModel': 0, 'AdditionalOptions': ['/std:c++17'] },
      },
    },
  ],
}
