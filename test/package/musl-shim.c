/* What a libstdc++ made for glibc wants and musl does not have, so that Bun for musl runs where no musl one is at hand. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

char __libc_single_threaded = 0;
unsigned __cpu_model[8];
int __cpu_indicator_init(void) { return 0; }
int _dl_find_object(void* address, void* result) { return -1; }
int __cxa_thread_atexit_impl(void (*destroy)(void*), void* object, void* library) { return 0; }
uint32_t arc4random(void) { return (uint32_t)rand(); }
size_t __strftime_l(char* s, size_t size, const char* format, const struct tm* time, locale_t locale) {
  return strftime_l(s, size, format, time, locale);
}
