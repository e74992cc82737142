/* Senders: keep-alive connections to the HTTP API, each with one request under way. They live as long as their command,
 * and take turns, so that none is idle for so long that the API closes it.
 *
 * Pushes name clients in turn: the same prefix and numbers as load_clients.c makes. One line is a JSON request, several
 * are NDJSON. A text begins with the time at which the push was due, so that a push that had to wait for a free
 * sender is as late as its reader sees it. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MOST_SENDERS = 1024, ANSWER_BYTES = 1 << 18, BODY_BYTES = 1 << 19 };

struct sender {
    int fd;
    bool busy;
    uint32_t have;
    char answer[ANSWER_BYTES];
};

struct answers answers;

static struct sender *senders;
static uint32_t used, next_client;
static uint32_t idle[MOST_SENDERS], idle_first, idle_count; /* a ring: who has been idle for longest is next */
static char filler[1 << 16], body[BODY_BYTES + 512];

static struct {
    char prefix[NAME_BYTES + 1], priority[8];
    uint32_t lines, clients, text_bytes;
    bool direct;
} plan;

static void rest(uint32_t number) {
    idle[(idle_first + idle_count++) % MOST_SENDERS] = number;
    senders[number].busy = false;
}

static void open_senders(uint32_t count, struct sockaddr_in to) {
    if (count > MOST_SENDERS) fail("at most %d senders", MOST_SENDERS);
    if (!senders && !(senders = calloc(MOST_SENDERS, sizeof *senders))) fail("no memory");
    for (; used < count; used++) {
        senders[used].fd = connect_from(0, to, 0);
        watch(senders[used].fd, SENDER, used);
        rest(used);
    }
}

void senders_plan(void) {
    plan.lines = (uint32_t)argument("lines", 1);
    plan.clients = (uint32_t)argument("clients", 1);
    plan.text_bytes = (uint32_t)argument("size", 100);
    plan.direct = argument("direct", 1);
    snprintf(plan.prefix, sizeof plan.prefix, "%s", text_argument("prefix", "client-"));
    snprintf(plan.priority, sizeof plan.priority, "%s", text_argument("priority", "normal"));
    if (plan.text_bytes < STAMP_DIGITS || plan.text_bytes > sizeof filler) fail("a text of %u bytes", plan.text_bytes);
    memset(filler, 'x', sizeof filler);
    open_senders((uint32_t)argument("senders", 64), address_argument("api"));
}

static size_t build_body(uint64_t stamp_ns) {
    size_t size = 0;
    for (uint32_t i = 0; i < plan.lines; i++) {
        if (size + plan.text_bytes + 256 > BODY_BYTES) fail("a body of more than %d bytes", BODY_BYTES);
        size += (size_t)snprintf(body + size, BODY_BYTES - size,
                                 "{\"to\":{\"client\":\"%s%0*u\"},\"text\":\"%0*lu%.*s\",\"priority\":\"%s\",\"direct\":%s}%s", plan.prefix,
                                 NAME_BYTES - (int)strlen(plan.prefix), next_client, STAMP_DIGITS, stamp_ns,
                                 (int)plan.text_bytes - STAMP_DIGITS, filler, plan.priority, plan.direct ? "true" : "false",
                                 plan.lines > 1 ? "\n" : "");
        next_client = (next_client + 1) % plan.clients;
    }
    return size;
}

bool senders_send_one(uint64_t stamp_ns) {
    if (idle_count == 0) return false;
    struct sender *s = &senders[idle[idle_first]];
    idle_first = (idle_first + 1) % MOST_SENDERS;
    idle_count--;
    static char request[BODY_BYTES + 1024];
    size_t body_bytes = build_body(stamp_ns);
    int head_bytes = snprintf(request, 512,
                              "POST /v1/push HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/%s\r\n"
                              "Content-Length: %zu\r\n\r\n",
                              plan.lines > 1 ? "x-ndjson" : "json", body_bytes);
    memcpy(request + head_bytes, body, body_bytes);
    s->busy = true;
    s->have = 0;
    send_whole(s->fd, request, (size_t)head_bytes + body_bytes);
    return true;
}

static uint64_t count(const char *text, const char *what) {
    uint64_t found = 0;
    for (; (text = strstr(text, what)); text++) found++;
    return found;
}

static void on_answer(struct sender *s, const char *content) {
    int status = atoi(s->answer + 9);
    uint64_t delivered = count(content, "\"delivered\""), queued = count(content, "\"queued\":true");
    if ((status != 200 && status != 202) || delivered + queued != plan.lines)
        fail("a push was not taken: %.400s", s->answer);
    answers.requests++;
    answers.delivered += delivered;
    answers.queued += queued;
    rest((uint32_t)(s - senders));
}

void senders_on_readable(uint32_t number) {
    struct sender *s = &senders[number];
    ssize_t size = recv(s->fd, s->answer + s->have, ANSWER_BYTES - 1 - s->have, MSG_DONTWAIT);
    if (size < 0 && errno == EAGAIN) return;
    if (size <= 0) fail("the API closed a connection");
    if (!s->busy) fail("an answer that nobody asked for");
    s->have += (uint32_t)size;
    s->answer[s->have] = 0;
    const char *end = strstr(s->answer, "\r\n\r\n");
    if (!end) return;
    const char *length = strcasestr(s->answer, "content-length:");
    if (!length || length > end) fail("an answer without Content-Length: %.300s", s->answer);
    if ((size_t)(s->answer + s->have - end - 4) >= strtoul(length + 15, NULL, 10)) on_answer(s, end + 4);
}

void senders_close_all(void) {
    for (uint32_t i = 0; i < used; i++) close(senders[i].fd);
    used = idle_count = 0;
}
