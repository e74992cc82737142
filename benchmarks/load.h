/* The load process: what its parts share. load.c is the control and the clock, load_clients.c what receives,
 * load_senders.c what pushes through the HTTP API.
 *
 * Rules. One thread, one epoll set; a part is told of an event by its kind and number. Whatever is not as expected
 * ends the process with a reason: a benchmark that lost something has no result. */
#pragma once
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum kind { CLIENT, SENDER };
enum { BUFFER_BYTES = 1 << 16, NAME_BYTES = 20, STAMP_DIGITS = 19 };

/* load.c */
extern uint8_t buffer[BUFFER_BYTES]; /* for one read; belongs to whoever is just being called */
_Noreturn void fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
uint64_t now_ns(void); /* CLOCK_MONOTONIC: the same for all processes of a machine */
void watch(int fd, enum kind kind, uint32_t number);
int connect_from(uint32_t source, struct sockaddr_in to, int receive_buffer_bytes);
void send_whole(int fd, const void *data, size_t size);
void add_sample(uint64_t ns); /* of what the command measures: handshakes, echoes or deliveries */
uint64_t argument(const char *name, uint64_t otherwise);
const char *text_argument(const char *name, const char *otherwise);
struct sockaddr_in address_argument(const char *name);

/* load_clients.c */
struct totals {
    uint64_t bytes, messages, opened, ended; /* ended: by the server */
};
extern struct totals totals; /* since the command began */
extern bool stamped; /* payloads begin with a time in ns, 19 digits: their age is a sample; 0 is not counted */
void clients_plan(void);     /* reads the arguments of open and echo */
void clients_open_one(void); /* the next connection of the plan */
bool clients_reopen_one(void); /* the one that has been open for longest, by RST; false: it is not open yet */
bool clients_echo_one(void); /* the next connection sends its frame; false: its last echo has not come */
void clients_on_readable(uint32_t number);
void clients_close_all(void); /* by RST: no TIME_WAIT */
uint32_t clients_count(void);
uint32_t clients_waiting(void); /* for the server's answer to a handshake, or for an echo */

/* load_senders.c */
struct answers {
    uint64_t requests, delivered, queued;
};
extern struct answers answers; /* since the command began */
void senders_plan(void);
bool senders_send_one(uint64_t stamp_ns); /* false: all senders wait for an answer */
void senders_on_readable(uint32_t number);
void senders_close_all(void);
