/* The floor: what the kernel and the protocol cost a server that does nothing else.
 *
 * Accepts, answers 101 (an event stream's head where no Sec-WebSocket-Key came), holds 64 bytes a connection, echoes
 * whole masked frames, and sends one frame to all. No routing, no timer, no write buffer, no check of what it is sent.
 *
 * Rules. It prints {"port": N}, then answers each line on stdin with one line, and ends with stdin:
 *
 *     broadcast times=T bytes=B     a text frame of B bytes to every connection, T times, one send each
 *
 * What it cannot do ends it with a reason: a partial head or frame, a full socket. A figure that was measured while
 * something failed is worth nothing. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "sha1.h"

enum { CAPACITY = 1 << 20, EVENTS = 512, BUFFER_BYTES = 1 << 16, BACKLOG = 8192, LISTENER = CAPACITY, STDIN };

struct connection {
    int fd; /* -1: free */
    int open;
    uint32_t next; /* free list */
    uint8_t rest[52];
};
_Static_assert(sizeof(struct connection) == 64, "64 bytes a connection");

static struct connection *connections;
static uint32_t used, first_free = CAPACITY;
static int epoll_fd, listener;
static uint8_t buffer[BUFFER_BYTES];

static void fail(const char *what) {
    fprintf(stderr, "floor: %s (%s)\n", what, strerror(errno));
    exit(1);
}

static void watch(int fd, uint32_t number) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = number};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event)) fail("epoll_ctl");
}

static void accept_all(void) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        uint32_t slot = first_free;
        if (slot < CAPACITY) first_free = connections[slot].next;
        else if ((slot = used++) >= CAPACITY) fail("too many connections");
        connections[slot].fd = fd;
        connections[slot].open = 0;
        watch(fd, slot);
    }
    if (errno != EAGAIN && errno != ECONNABORTED) fail("accept");
}

static void release(uint32_t slot) {
    close(connections[slot].fd);
    connections[slot].fd = -1;
    connections[slot].next = first_free;
    first_free = slot;
}

static void send_whole(int fd, const void *data, size_t size) {
    if (send(fd, data, size, MSG_NOSIGNAL) != (ssize_t)size) fail("send");
}

static void answer(struct connection *c, size_t size) {
    static const char event_stream[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    static char upgrade[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                            "Sec-WebSocket-Accept: ............................\r\n\r\n";
    static const char name[] = "Sec-WebSocket-Key: ";
    if (size < 4 || memcmp(buffer + size - 4, "\r\n\r\n", 4)) fail("a head in pieces");
    const char *key = memmem(buffer, size, name, sizeof name - 1);
    if (key) {
        websocket_accept(key + sizeof name - 1, upgrade + sizeof upgrade - 1 - 4 - ACCEPT_BYTES);
        send_whole(c->fd, upgrade, sizeof upgrade - 1);
    } else {
        send_whole(c->fd, event_stream, sizeof event_stream - 1);
    }
    c->open = 1;
}

static void echo(struct connection *c, size_t size) {
    for (uint8_t *frame = buffer, *end = buffer + size; frame < end;) {
        size_t payload_bytes = frame[1] & 0x7F, header_bytes = 2;
        if (payload_bytes == 126) payload_bytes = (size_t)frame[2] << 8 | frame[3], header_bytes = 4;
        uint8_t *key = frame + header_bytes, *payload = key + 4, *reply = payload - header_bytes;
        if (payload + payload_bytes > end || (frame[1] & 0x7F) == 127) fail("a frame in pieces");
        for (size_t i = 0; i < payload_bytes; i++) payload[i] ^= key[i & 3];
        memmove(reply, frame, header_bytes);
        reply[1] &= 0x7F;
        send_whole(c->fd, reply, header_bytes + payload_bytes);
        frame = payload + payload_bytes;
    }
}

static void on_readable(uint32_t slot) {
    struct connection *c = &connections[slot];
    ssize_t size = recv(c->fd, buffer, sizeof buffer, 0);
    if (size <= 0) {
        if (size == 0 || errno != EAGAIN) release(slot);
    } else if (c->open) {
        echo(c, (size_t)size);
    } else {
        answer(c, (size_t)size);
    }
}

static void broadcast(unsigned times, unsigned payload_bytes) {
    uint8_t frame[4 + 65535];
    size_t header_bytes = payload_bytes < 126 ? 2 : 4;
    frame[0] = 0x81;
    frame[1] = payload_bytes < 126 ? (uint8_t)payload_bytes : 126;
    frame[2] = (uint8_t)(payload_bytes >> 8);
    frame[3] = (uint8_t)payload_bytes;
    memset(frame + header_bytes, 'x', payload_bytes);
    unsigned long sent = 0;
    for (unsigned i = 0; i < times; i++)
        for (uint32_t slot = 0; slot < used; slot++)
            if (connections[slot].fd >= 0) {
                send_whole(connections[slot].fd, frame, header_bytes + payload_bytes);
                sent++;
            }
    printf("{\"sent\": %lu}\n", sent);
}

static void on_command(void) {
    char line[256];
    ssize_t size = read(0, line, sizeof line - 1);
    if (size <= 0) exit(0);
    line[size] = 0;
    unsigned times, bytes;
    if (sscanf(line, "broadcast times=%u bytes=%u", &times, &bytes) != 2 || bytes > 65535) fail("no such command");
    broadcast(times, bytes);
}

static int listen_on_loopback(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* inherited by what is accepted */
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, BACKLOG)) fail("listen");
    getsockname(fd, (struct sockaddr *)&address, &size);
    printf("{\"port\": %u}\n", ntohs(address.sin_port));
    return fd;
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    connections = mmap(NULL, sizeof(struct connection) * CAPACITY, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (connections == MAP_FAILED) fail("mmap");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listener = listen_on_loopback();
    watch(listener, LISTENER);
    watch(0, STDIN);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.u32 == LISTENER) accept_all();
            else if (events[i].data.u32 == STDIN) on_command();
            else on_readable(events[i].data.u32);
        }
    }
}
