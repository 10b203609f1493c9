/* What the system's C++ headers take from C libraries that are newer than the oldest one that is served: since glibc 2.32,
   whether the process has one thread. It may have more. */
__attribute__((visibility("hidden"))) char __libc_single_threaded = 0;
