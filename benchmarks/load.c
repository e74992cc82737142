/* A load client in C, so that what is measured is the server: control, clock and pace. See load.h for its parts.
 *
 * Rules. Commands are lines on stdin, `verb name=value …`, each answered with one line of JSON on stdout; the end of
 * stdin is the end. Sources are 127.0.0.2 … 127.0.0.21, for 15,000 connects from one address halve the rate, and
 * connections are closed by RST. A command with a rate has a schedule: what is late is made up for, and the answer says
 * how late it got. Every answer has this process's own CPU time; where that was nearly all of the time in which it had
 * a core, the client was the bottleneck, and the answer is an error instead of a figure.
 *
 *     open    to=HOST:PORT count=N [path=/ws?client= prefix=client- tokens=FILE receive_buffer=BYTES]
 *             [rate=PER_S | in_flight=N]             handshakes; samples are from connect to the answer's last byte
 *     receive messages=N [bytes=N] [within=MS]       waits until so much has come in all
 *     echo    messages=N rate=PER_S [size=BYTES]     the connections send in turn; samples are round trips
 *     reopen  for=MS [in_flight=N]                   all connections again and again, as fast as can be
 *     push    api=HOST:PORT requests=N clients=K [senders=N lines=N direct=0|1 size=BYTES priority=high] [rate=PER_S]
 *             with a rate, samples are from when a push was due until its client has it; texts that begin with 19
 *             zeros are not ours, and not counted
 *     close                                          by RST
 *
 * `saturate=1` lets a command run without that judgement: for pressure beside which something else is measured. */
#include "load.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { EVENTS = 512, MOST_WORDS = 24, MOST_STEPS = 64, IN_FLIGHT = 256, MOST_SAMPLES = 1 << 22 };
#define ENDLESS UINT64_MAX
static const double MOST_BUSY = 0.95;        /* share of the time with a core that this process may have computed */
static const double JUDGED_S = 0.003;        /* shorter commands are not judged */
static const uint64_t SLICE_NS = 1000000;    /* of a fast schedule; what is due within one goes at once: it saves sleeps */
static const uint64_t FAST_PER_S = 5000;     /* slower ones are kept to the moment: there a sample is a latency */

uint8_t buffer[BUFFER_BYTES];

static int epoll_fd;
static char *words[MOST_WORDS];
static int word_count;
static uint64_t *samples, sample_count;

_Noreturn void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    exit(1);
}

/* ---- sockets and samples */

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void watch(int fd, enum kind kind, uint32_t number) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)kind << 32 | number};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl: %s", strerror(errno));
}

int connect_from(uint32_t source, struct sockaddr_in to, int receive_buffer_bytes) {
    struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + source)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    if (fd < 0) fail("socket: %s", strerror(errno));
    if (receive_buffer_bytes)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&from, sizeof from)) fail("bind: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connect: %s", strerror(errno));
    return fd;
}

void send_whole(int fd, const void *data, size_t size) {
    for (const char *at = data; size;) {
        ssize_t sent = send(fd, at, size, MSG_NOSIGNAL);
        if (sent < 0) fail("send: %s", strerror(errno));
        at += sent;
        size -= (size_t)sent;
    }
}

void add_sample(uint64_t ns) {
    if (sample_count < MOST_SAMPLES) samples[sample_count++] = ns;
}

static int by_size(const void *a, const void *b) {
    uint64_t first = *(const uint64_t *)a, second = *(const uint64_t *)b;
    return first < second ? -1 : first > second;
}

static double quantile_us(double share) {
    return sample_count ? (double)samples[(uint64_t)(share * (double)(sample_count - 1) + 0.5)] / 1000 : 0;
}

/* ---- arguments */

const char *text_argument(const char *name, const char *otherwise) {
    size_t size = strlen(name);
    for (int i = 1; i < word_count; i++)
        if (!strncmp(words[i], name, size) && words[i][size] == '=') return words[i] + size + 1;
    return otherwise;
}

uint64_t argument(const char *name, uint64_t otherwise) {
    const char *text = text_argument(name, NULL);
    return text ? strtoull(text, NULL, 10) : otherwise;
}

struct sockaddr_in address_argument(const char *name) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    char host[64];
    unsigned port;
    const char *text = text_argument(name, "");
    if (sscanf(text, "%63[^:]:%u", host, &port) == 2 && inet_aton(host, &address.sin_addr))
        address.sin_port = htons((uint16_t)port);
    return address;
}

/* ---- the loop */

static bool turn(uint64_t until_ns) {
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns(), left_ns = until_ns > now ? until_ns - now : 0;
    struct timespec wait = {.tv_sec = (time_t)(left_ns / 1000000000), .tv_nsec = (long)(left_ns % 1000000000)};
    int count = epoll_pwait2(epoll_fd, events, EVENTS, &wait, NULL);
    for (int i = 0; i < count; i++) {
        uint32_t number = (uint32_t)events[i].data.u64;
        if (events[i].data.u64 >> 32 == CLIENT) clients_on_readable(number);
        else senders_on_readable(number);
    }
    return count > 0;
}

/* What a command does: step() `count` times (ENDLESS: until done), at `rate` a second or (0) with at most in_flight
 * waiting, then nothing but receive until done(). late_ns: how far behind its schedule it got. */
struct work {
    uint64_t count, rate, in_flight, deadline_ns, late_ns;
    bool (*step)(uint64_t due_ns); /* false: not now */
    bool (*done)(void);
};

/* Takes the steps that are due, but not so many that nothing is read meanwhile; answers when to look again. */
static uint64_t take_steps(struct work *work, uint64_t start_ns, uint64_t *steps) {
    uint64_t now = now_ns();
    for (int i = 0; *steps < work->count; i++) {
        uint64_t due = work->rate ? start_ns + *steps * 1000000000 / work->rate : now;
        if (due > now) return due + (work->rate > FAST_PER_S ? SLICE_NS : 0);
        if (i == MOST_STEPS) return now;
        if (work->rate && now - due > work->late_ns) work->late_ns = now - due;
        if ((!work->rate && clients_waiting() >= work->in_flight) || !work->step(due)) break;
        ++*steps;
    }
    return work->deadline_ns;
}

static void run(struct work *work) {
    uint64_t start_ns = now_ns(), steps = 0;
    while (!work->done() || (steps < work->count && work->count != ENDLESS)) {
        if (now_ns() > work->deadline_ns)
            fail("timed out after %lu steps: %u clients wait, %lu messages and %lu bytes came, %lu connections ended",
                 steps, clients_waiting(), totals.messages, totals.bytes, totals.ended);
        turn(take_steps(work, start_ns, &steps));
    }
}

/* ---- commands */

static uint64_t wanted_messages, wanted_bytes, wanted_requests, reopen_until_ns;

static bool open_one(uint64_t due_ns) { return (void)due_ns, clients_open_one(), true; }
static bool echo_one(uint64_t due_ns) { return (void)due_ns, clients_echo_one(); }
static bool push_one(uint64_t due_ns) { return senders_send_one(due_ns); }
static bool reopen_one(uint64_t due_ns) { return due_ns < reopen_until_ns && clients_reopen_one(); }
static bool none_waits(void) { return clients_waiting() == 0; }
static bool all_came(void) { return totals.messages >= wanted_messages && totals.bytes >= wanted_bytes; }
static bool all_answered(void) { return answers.requests >= wanted_requests && all_came(); }
static bool reopened(void) { return now_ns() >= reopen_until_ns && none_waits(); }

static struct work plan_work(const char *verb) {
    struct work work = {
        .rate = argument("rate", 0),
        .in_flight = argument("in_flight", IN_FLIGHT),
        .deadline_ns = now_ns() + argument("within", 60000) * 1000000,
    };
    wanted_messages = argument("messages", 0);
    wanted_bytes = argument("bytes", 0);
    stamped = false;
    if (!strcmp(verb, "open")) {
        clients_plan();
        work.count = argument("count", 1), work.step = open_one, work.done = none_waits;
    } else if (!strcmp(verb, "receive")) {
        work.done = all_came;
    } else if (!strcmp(verb, "echo")) {
        clients_plan();
        work.count = wanted_messages, work.step = echo_one, work.done = none_waits;
    } else if (!strcmp(verb, "reopen")) {
        clients_plan();
        reopen_until_ns = now_ns() + argument("for", 1000) * 1000000;
        work.count = ENDLESS, work.step = reopen_one, work.done = reopened;
    } else if (!strcmp(verb, "push")) {
        senders_plan();
        stamped = work.rate > 0;
        wanted_requests = work.count = argument("requests", 1), work.step = push_one, work.done = all_answered;
    } else {
        fail("no such command: %s", verb);
    }
    return work;
}

/* Seconds, of which only differences mean anything. */
struct clocks {
    double wall, cpu;
    double waiting; /* able to run, but another process had the core: /proc/PID/schedstat */
};

static struct clocks read_clocks(void) {
    struct timespec cpu;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    unsigned long long waiting_ns;
    FILE *file = fopen("/proc/self/schedstat", "r");
    if (!file || fscanf(file, "%*u %llu", &waiting_ns) != 1) fail("/proc/self/schedstat tells nothing");
    fclose(file);
    return (struct clocks){(double)now_ns() / 1e9, (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9,
                           (double)waiting_ns / 1e9};
}

static void report(const struct work *work, struct clocks from, struct clocks to) {
    double elapsed_s = to.wall - from.wall, cpu_s = to.cpu - from.cpu;
    double with_core_s = elapsed_s - (to.waiting - from.waiting);
    if (work->done && cpu_s > MOST_BUSY * with_core_s && elapsed_s > JUDGED_S && !argument("saturate", 0)) {
        printf("{\"error\": \"the load process was the bottleneck: it computed for %.3f of the %.3f s "
               "in which it had a core\"}\n", cpu_s, with_core_s);
        return;
    }
    if (totals.ended) {
        printf("{\"error\": \"the server ended %lu connections\"}\n", totals.ended);
        return;
    }
    qsort(samples, sample_count, sizeof *samples, by_size);
    printf("{\"elapsed_s\": %.6f, \"cpu_s\": %.6f, \"late_ms\": %.3f, \"opened\": %lu, "
           "\"messages\": %lu, \"bytes\": %lu, \"requests\": %lu, \"delivered\": %lu, \"queued\": %lu, "
           "\"samples\": %lu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}\n",
           elapsed_s, cpu_s, (double)work->late_ns / 1e6, totals.opened, totals.messages, totals.bytes,
           answers.requests, answers.delivered, answers.queued, sample_count, quantile_us(0.5), quantile_us(0.99),
           quantile_us(0.999), quantile_us(1));
}

static void on_command(char *line) {
    word_count = 0;
    for (char *word = strtok(line, " \n"); word && word_count < MOST_WORDS; word = strtok(NULL, " \n"))
        words[word_count++] = word;
    if (word_count == 0) fail("an empty command");
    totals = (struct totals){0};
    answers = (struct answers){0};
    sample_count = 0;
    struct clocks from = read_clocks();
    struct work work = {0};
    if (!strcmp(words[0], "close")) {
        clients_close_all();
    } else {
        work = plan_work(words[0]);
        run(&work);
        senders_close_all();
    }
    report(&work, from, read_clocks());
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    prctl(PR_SET_TIMERSLACK, 1000UL); /* ns; 50 µs otherwise */
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    samples = calloc(MOST_SAMPLES, sizeof *samples); /* costs memory where it is written */
    if (epoll_fd < 0 || !samples) fail("no memory");
    char *line = NULL;
    size_t room = 0;
    while (getline(&line, &room, stdin) > 0) on_command(line);
    return 0;
}
