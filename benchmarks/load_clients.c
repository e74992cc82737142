/* Clients: connections that receive, WebSocket or event stream by their path.
 *
 * A connection's life: head sent → head received → open. Frames are followed to their ends, so that messages are
 * counted however they are cut; payloads are not kept. Between commands nothing is read: a connection opened with a
 * small receive buffer is a slow consumer for as long as one likes. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_BYTES = 4096, MOST_CLIENTS = 1 << 17, SOURCES = 20, TEXT = 1, CLOSE = 8 };
enum state { DEAD, ASKED, OPEN };

struct client {
    int fd;
    uint8_t state, is_stream;
    uint8_t matched;      /* of the head's end; of a frame's header, or of an event's lines, once open */
    uint8_t header[10];
    uint64_t left;        /* of the frame's payload */
    uint64_t stamp;
    uint32_t stamp_digits;
    uint64_t since_ns;    /* when the head or the echo was sent */
};

struct totals totals;
bool stamped;

static struct client *clients;
static uint32_t used, waiting, next_to_reopen, next_to_echo;

static struct {
    struct sockaddr_in to;
    char path[256], prefix[NAME_BYTES + 1];
    int receive_buffer_bytes;
    char **tokens;
    uint32_t token_count;
    uint8_t echo[8 + 65535];
    size_t echo_bytes;
} plan;

/* ---- plan */

static void read_tokens(const char *path) {
    for (uint32_t i = 0; i < plan.token_count; i++) free(plan.tokens[i]);
    free(plan.tokens);
    plan.tokens = NULL;
    plan.token_count = 0;
    if (!*path) return;
    FILE *file = fopen(path, "r");
    if (!file) fail("no file %s", path);
    char *line = NULL;
    size_t room = 0;
    for (ssize_t size; (size = getline(&line, &room, file)) > 0;) {
        line[size - 1] = 0;
        plan.tokens = reallocarray(plan.tokens, plan.token_count + 1, sizeof *plan.tokens);
        plan.tokens[plan.token_count++] = strdup(line);
    }
    free(line);
    fclose(file);
}

static void build_echo(size_t payload_bytes) {
    static const uint8_t key[4] = {0x37, 0xFA, 0x21, 0x3D}; /* RFC 6455 §5.7's */
    uint8_t *at = plan.echo;
    *at++ = 0x80 | TEXT;
    if (payload_bytes < 126) {
        *at++ = 0x80 | (uint8_t)payload_bytes;
    } else {
        *at++ = 0x80 | 126;
        *at++ = (uint8_t)(payload_bytes >> 8);
        *at++ = (uint8_t)payload_bytes;
    }
    memcpy(at, key, 4);
    at += 4;
    for (size_t i = 0; i < payload_bytes; i++) *at++ = 'x' ^ key[i & 3];
    plan.echo_bytes = (size_t)(at - plan.echo);
}

void clients_plan(void) {
    if (!clients && !(clients = calloc(MOST_CLIENTS, sizeof *clients))) fail("no memory");
    plan.to = address_argument("to");
    plan.receive_buffer_bytes = (int)argument("receive_buffer", 0);
    snprintf(plan.path, sizeof plan.path, "%s", text_argument("path", "/ws"));
    snprintf(plan.prefix, sizeof plan.prefix, "%s", text_argument("prefix", "client-"));
    read_tokens(text_argument("tokens", ""));
    build_echo(argument("size", 100));
}

/* ---- handshake */

static void ask(struct client *c, uint32_t number) {
    static const char upgrade[] = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                                  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    char head[HEAD_BYTES], name[2 * NAME_BYTES] = "", token[HEAD_BYTES / 2] = "";
    if (strchr(plan.path, '?')) /* client=: ids are prefix and number, NAME_BYTES together */
        snprintf(name, sizeof name, "%s%0*u", plan.prefix, NAME_BYTES - (int)strlen(plan.prefix), number);
    if (plan.token_count)
        snprintf(token, sizeof token, "Authorization: Bearer %s\r\n", plan.tokens[number % plan.token_count]);
    c->is_stream = strncmp(plan.path, "/ws", 3) != 0;
    int size = snprintf(head, sizeof head, "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s%s\r\n", plan.path, name, token,
                        c->is_stream ? "" : upgrade);
    if (size >= HEAD_BYTES) fail("a head of %d bytes", size);
    c->since_ns = now_ns();
    c->fd = connect_from(number % SOURCES, plan.to, plan.receive_buffer_bytes);
    c->state = ASKED;
    c->matched = 0;
    c->left = 0;
    waiting++;
    watch(c->fd, CLIENT, number);
    send_whole(c->fd, head, (size_t)size);
}

void clients_open_one(void) {
    if (used == MOST_CLIENTS) fail("at most %d clients", MOST_CLIENTS);
    ask(&clients[used], used);
    used++;
}

static void reset(struct client *c) {
    struct linger at_once = {.l_onoff = 1, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(c->fd);
    c->state = DEAD;
}

bool clients_reopen_one(void) {
    struct client *c = &clients[next_to_reopen];
    if (c->state == ASKED) return false;
    if (c->state == OPEN) reset(c);
    ask(c, next_to_reopen);
    next_to_reopen = (next_to_reopen + 1) % used;
    return true;
}

/* How much of the data was the head. */
static size_t take_head(struct client *c, const uint8_t *data, size_t size) {
    static const char end[] = "\r\n\r\n";
    if (c->matched == 0 && (size < 12 || (memcmp(data + 9, "101", 3) && memcmp(data + 9, "200", 3))))
        fail("refused: %.*s", (int)(size < 300 ? size : 300), (const char *)data);
    for (size_t i = 0; i < size; i++) {
        c->matched = data[i] == (uint8_t)end[c->matched] ? c->matched + 1 : data[i] == '\r';
        if (c->matched == 4) {
            c->state = OPEN;
            c->matched = 0;
            waiting--;
            totals.opened++;
            add_sample(now_ns() - c->since_ns);
            return i + 1;
        }
    }
    return size;
}

/* ---- messages */

static void on_message(struct client *c) {
    if (stamped && c->stamp == 0) return; /* somebody else's */
    totals.messages++;
    if (stamped && c->stamp_digits == STAMP_DIGITS) add_sample(now_ns() - c->stamp);
    if (c->since_ns) { /* an echo */
        add_sample(now_ns() - c->since_ns);
        c->since_ns = 0;
        waiting--;
    }
}

static size_t take_payload(struct client *c, const uint8_t *data, size_t size) {
    size_t taken = c->left < size ? (size_t)c->left : size;
    for (size_t i = 0; stamped && i < taken && c->stamp_digits < STAMP_DIGITS; i++, c->stamp_digits++) {
        if (data[i] < '0' || data[i] > '9') fail("a payload that does not begin with a time");
        c->stamp = c->stamp * 10 + (data[i] - '0');
    }
    c->left -= taken;
    return taken;
}

static void take_frames(struct client *c, const uint8_t *data, size_t size) {
    while (size) {
        if (c->left == 0) {
            c->header[c->matched++] = *data++;
            size--;
            uint8_t length = c->header[1] & 0x7F, wanted = length == 127 ? 10 : length == 126 ? 4 : 2;
            if (c->matched < 2 || c->matched < wanted) continue;
            if (c->header[1] & 0x80) fail("a masked frame from the server");
            if ((c->header[0] & 0x0F) >= CLOSE) fail("a control frame from the server: opcode %d", c->header[0] & 0x0F);
            c->left = wanted == 2 ? length : 0;
            for (int i = 2; i < wanted; i++) c->left = c->left << 8 | c->header[i];
            c->matched = 0;
            c->stamp = c->stamp_digits = 0;
        } else {
            size_t taken = take_payload(c, data, size);
            data += taken;
            size -= taken;
            if (c->left == 0) on_message(c);
        }
    }
}

/* An event is a block of lines with a data line in it; matched is the place in the line, or IN_LINE. */
static void take_events(struct client *c, const uint8_t *data, size_t size) {
    enum { LINE_START, IN_LINE };
    for (size_t i = 0; i < size; i++) {
        if (c->matched == IN_LINE) {
            if (data[i] == '\n') c->matched = LINE_START;
        } else if (data[i] == '\n') { /* a blank line */
            if (c->left) on_message(c);
            c->left = 0;
        } else {
            if (data[i] == 'd') c->left = 1;
            c->matched = IN_LINE;
        }
    }
}

void clients_on_readable(uint32_t number) {
    struct client *c = &clients[number];
    if (c->state == DEAD) return; /* reopened within this turn */
    ssize_t size = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size <= 0) {
        if (size < 0 && errno == EAGAIN) return;
        if (c->state == ASKED) fail("the server closed the connection within the handshake");
        reset(c);
        totals.ended++;
        return;
    }
    totals.bytes += (uint64_t)size;
    size_t taken = 0;
    if (c->state == ASKED) {
        taken = take_head(c, buffer, (size_t)size);
        c->since_ns = 0;
    }
    if (c->is_stream) take_events(c, buffer + taken, (size_t)size - taken);
    else take_frames(c, buffer + taken, (size_t)size - taken);
}

bool clients_echo_one(void) {
    struct client *c = &clients[next_to_echo];
    if (c->since_ns) return false;
    next_to_echo = (next_to_echo + 1) % used;
    c->since_ns = now_ns();
    waiting++;
    send_whole(c->fd, plan.echo, plan.echo_bytes);
    return true;
}

/* ---- all of them */

void clients_close_all(void) {
    for (uint32_t i = 0; i < used; i++)
        if (clients[i].state != DEAD) reset(&clients[i]);
    used = waiting = next_to_reopen = next_to_echo = 0;
}

uint32_t clients_count(void) { return used; }
uint32_t clients_waiting(void) { return waiting; }
