/* Callgrind's client requests as functions, for ctypes: what is counted is what a script does, not how it was set up. */
#include <valgrind/callgrind.h>

int counted(void) { return RUNNING_ON_VALGRIND != 0; }

void start(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void toggle(void) { CALLGRIND_TOGGLE_COLLECT; }

void dump(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}
