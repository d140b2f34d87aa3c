/* Subscribers and one publisher of another server that fans out over WebSocket: the same load as devices.c, for peers.
 *
 * All messages of a run have the same size, so what arrived is counted in bytes inside the WebSocket frames, whatever
 * the server made of them: one message in a frame, many in one, or one in two. A message lost or doubled shows in the
 * sum. It knows no peer's protocol; the Python driver made every byte that is sent, and says what a reply looks like.
 *
 * peers PORT PLAN
 * PLAN: u32 bytes of a message as a subscriber gets it, u32 bytes of an acknowledgement (0: one WebSocket frame each);
 *       for the publisher, then for each subscriber: bytes upgrade, bytes hello (empty: none), bytes ready (what the
 *       answer to hello ends with; empty: nothing is awaited); u32 subscribers; u32 publishes, for each: bytes frame.
 *       `bytes` are a u32 size and that many bytes; integers are little-endian.
 * Commands on stdin, one answer line (JSON) each on stdout:
 *   open              connect and subscribe all
 *   go WINDOW COUNT   publish the next COUNT messages, WINDOW unacknowledged ones at most; answered when all are
 *                     acknowledged and every subscriber has every message
 * Ends when stdin ends.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OPENING_MAX = 500, READ_BYTES = 1 << 18, WINDOW_MAX = 64, STALL_S = 15, LATENCIES_MAX = 1 << 20, TEXT_MAX = 4096 };

struct bytes { const uint8_t *at; uint32_t size; };
struct role { struct bytes upgrade, hello, ready; };
enum state { UPGRADING, GREETING, OPEN };

struct connection {
    int fd;
    enum state state;
    const struct role *role;
    uint8_t head[10];    /* of a WebSocket frame that is not complete yet */
    uint32_t head_size;
    uint64_t left;       /* bytes of the frame's payload that are still to come */
    int opcode;          /* of that frame */
    uint8_t *text;       /* until it is open: what came, for the search for the end of the handshake */
    uint32_t text_size;
    struct bytes unsent;
};

static struct role roles[2]; /* publisher, subscriber */
static struct connection *connections; /* the first one publishes */
static uint32_t connection_count, message_bytes, acknowledgement_bytes, open_count, next_to_open;
static const uint8_t *next_publish;
static uint32_t publishes_left, to_send, window;
static uint64_t sent, acknowledged, acknowledgement_part, message_total_bytes, received_bytes, frames;
static double sent_s[WINDOW_MAX];
static float latencies_ms[LATENCIES_MAX];
static uint32_t latency_count;
static int poller;
static struct sockaddr_in server;
static uint8_t input[READ_BYTES];
static int is_opening;   /* the command `open` has come */
static int is_commanded; /* a line waits on stdin */

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what, const uint8_t *at, size_t size) {
    fprintf(stderr, "peers: %s: ", what);
    for (size_t i = 0; i < size && i < 400; i++) fputc(at[i] >= 32 && at[i] < 127 ? at[i] : '.', stderr);
    fputc('\n', stderr);
    exit(1);
}

static uint32_t u32(const uint8_t **at) { uint32_t v; memcpy(&v, *at, 4); *at += 4; return v; }

static struct bytes taken(const uint8_t **at) {
    struct bytes b;
    b.size = u32(at);
    b.at = *at;
    *at += b.size;
    return b;
}

static void read_plan(const char *path) {
    int fd = open(path, O_RDONLY);
    struct stat status;
    if (fd < 0 || fstat(fd, &status)) { perror(path); exit(1); }
    const uint8_t *at = mmap(NULL, status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    message_bytes = u32(&at), acknowledgement_bytes = u32(&at);
    for (int i = 0; i < 2; i++) roles[i] = (struct role){taken(&at), taken(&at), taken(&at)};
    connection_count = u32(&at) + 1;
    publishes_left = u32(&at);
    next_publish = at;
    connections = calloc(connection_count, sizeof *connections);
    for (uint32_t i = 0; i < connection_count; i++) connections[i].role = &roles[i > 0];
}

static void send_some(struct connection *c, struct bytes b) {
    ssize_t n = send(c->fd, b.at, b.size, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) fail(strerror(errno), NULL, 0);
    if (n < 0) n = 0;
    c->unsent = (struct bytes){b.at + n, b.size - n};
    uint32_t events = EPOLLIN | (c->unsent.size ? EPOLLOUT : 0);
    if (n < b.size) epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){events, {.ptr = c}});
}

static void publish_more(void) {
    struct connection *c = &connections[0];
    while (!c->unsent.size && to_send && sent - acknowledged < window) {
        sent_s[sent % WINDOW_MAX] = now_s();
        sent++, to_send--, publishes_left--;
        send_some(c, taken(&next_publish));
    }
}

static void acknowledge(uint64_t count) {
    for (; count; count--) {
        if (acknowledged == sent) fail("more acknowledgements than messages", NULL, 0);
        if (latency_count < LATENCIES_MAX)
            latencies_ms[latency_count++] = (now_s() - sent_s[acknowledged % WINDOW_MAX]) * 1e3;
        acknowledged++;
    }
}

static void opened(struct connection *c) {
    c->state = OPEN;
    open_count++;
    free(c->text);
    c->text = NULL;
}

/* Bytes of a payload that came; `ends`: they are the last of their frame. */
static void take_payload(struct connection *c, const uint8_t *at, size_t size, int ends) {
    if (c->opcode > 8) return;
    if (c->state == GREETING) {
        if (c->text_size + size > TEXT_MAX) fail("no end of the greeting", at, size);
        memcpy(c->text + c->text_size, at, size);
        c->text_size += size;
        if (memmem(c->text, c->text_size, c->role->ready.at, c->role->ready.size)) opened(c);
    } else if (c == connections) {
        acknowledgement_part += size;
        if (!acknowledgement_bytes) acknowledge(ends);
        else acknowledge(acknowledgement_part / acknowledgement_bytes), acknowledgement_part %= acknowledgement_bytes;
        publish_more();
    } else {
        message_total_bytes += size;
    }
}

static void take_frames(struct connection *c, const uint8_t *at, const uint8_t *end) {
    while (at < end) {
        if (c->left) {
            uint64_t part = (uint64_t)(end - at) < c->left ? (uint64_t)(end - at) : c->left;
            c->left -= part;
            take_payload(c, at, part, !c->left);
            at += part;
            continue;
        }
        c->head[c->head_size++] = *at++;
        if (c->head_size < 2) continue;
        uint32_t length = c->head[1] & 0x7f, size = length == 126 ? 4 : length == 127 ? 10 : 2;
        if (c->head_size < size) continue;
        c->left = size == 2 ? length : 0;
        for (uint32_t i = 2; i < size; i++) c->left = c->left << 8 | c->head[i];
        if ((c->head[0] & 0x0f) == 8) fail("the server closes", at, end - at);
        c->opcode = c->head[0] & 0x0f;
        c->head_size = 0;
        /* An empty pong, masked with zeros: enough for those who hang up on the silent. */
        static const uint8_t pong[] = {0x8a, 0x80, 0, 0, 0, 0};
        if (c->opcode == 9 && !c->unsent.size) send_some(c, (struct bytes){pong, sizeof pong});
        frames++;
    }
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, input, sizeof input, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("the server hangs up", c->text, c->text_size);
    received_bytes += got;
    const uint8_t *at = input, *end = input + got;
    if (c->state == UPGRADING) {
        if (c->text_size + got > TEXT_MAX) fail("no end of the upgrade", at, got);
        memcpy(c->text + c->text_size, at, got);
        uint32_t before = c->text_size;
        c->text_size += got;
        const uint8_t *found = memmem(c->text, c->text_size, "\r\n\r\n", 4);
        if (!found) return;
        if (!memmem(c->text, found - c->text, " 101 ", 5)) fail("the upgrade is refused", c->text, c->text_size);
        at += found + 4 - c->text - before;
        c->state = GREETING, c->text_size = 0;
        if (c->role->hello.size) send_some(c, c->role->hello);
        if (!c->role->ready.size) opened(c);
    }
    take_frames(c, at, end);
}

static void open_next(void) {
    struct connection *c = &connections[next_to_open++];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&server, sizeof server)) { perror("peers: connect"); exit(1); }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){EPOLLIN, {.ptr = c}});
    c->text = malloc(TEXT_MAX);
    send_some(c, c->role->upgrade);
}

static int commanded(void) { return is_commanded; }

/* Serve until `is_done`, opening what is not open yet; false when nothing has come for `STALL_S`. */
static int serve(int (*is_done)(void)) {
    double heard = now_s();
    while (!is_done()) {
        while (is_opening && next_to_open < connection_count && next_to_open < open_count + OPENING_MAX) open_next();
        struct epoll_event events[512];
        int ready = epoll_wait(poller, events, 512, 1000);
        if (ready) heard = now_s();
        else if (is_done != commanded && now_s() - heard > STALL_S) return 0;
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c) { is_commanded = 1; continue; }
            if (events[i].events & EPOLLOUT) {
                struct bytes rest = c->unsent;
                c->unsent.size = 0;
                epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){EPOLLIN, {.ptr = c}});
                send_some(c, rest);
                if (c == connections && c->state == OPEN) publish_more();
            }
            if (events[i].events & ~EPOLLOUT) receive(c);
        }
    }
    return 1;
}

static int all_open(void) { return open_count == connection_count; }

static uint64_t expected_bytes;
static int all_here(void) { return acknowledged == sent && !to_send && message_total_bytes >= expected_bytes; }

static int by_size(const void *a, const void *b) { float d = *(float *)a - *(float *)b; return d < 0 ? -1 : d > 0; }

static double latency_at(double share) { return latency_count ? latencies_ms[(uint32_t)(share * (latency_count - 1))] : 0; }

static int go(uint32_t count) {
    if (publishes_left < count) fail("the plan has too few messages", NULL, 0);
    message_total_bytes = received_bytes = frames = latency_count = 0;
    expected_bytes = (uint64_t)count * message_bytes * (connection_count - 1);
    to_send = count;
    double began = now_s();
    publish_more();
    int is_done = serve(all_here);
    double took = now_s() - began;
    if (!is_done || message_total_bytes != expected_bytes) {
        fprintf(stderr, "peers: %lu of %lu messages acknowledged, %lu of %lu bytes of messages delivered\n",
                acknowledged, sent, message_total_bytes, expected_bytes);
        return 1;
    }
    qsort(latencies_ms, latency_count, sizeof *latencies_ms, by_size);
    printf("{\"seconds\": %.6f, \"outcomes\": %u, \"applied\": %u, \"delivered\": %lu, \"frames\": %lu, \"bytes\": %lu,"
           " \"ack_p50_ms\": %.3f, \"ack_p99_ms\": %.3f}\n",
           took, count, count, message_total_bytes / message_bytes, frames, received_bytes, latency_at(0.5),
           latency_at(0.99));
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 3) { fputs("peers PORT PLAN\n", stderr); return 2; }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    server = (struct sockaddr_in){AF_INET, htons(atoi(argv[1])), {htonl(INADDR_LOOPBACK)}, {0}};
    poller = epoll_create1(0);
    read_plan(argv[2]);
    char line[128];
    epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &(struct epoll_event){EPOLLIN, {.ptr = NULL}});
    /* Between two commands it goes on serving: there are pings to answer. The driver awaits an answer to each command,
     * so there is never a second line in stdin's buffer. */
    while (serve(commanded), is_commanded = 0, fgets(line, sizeof line, stdin)) {
        uint32_t count;
        if (!strcmp(line, "open\n")) {
            is_opening = 1;
            double began = now_s();
            if (!serve(all_open)) {
                fprintf(stderr, "peers: %u of %u opened\n", open_count, connection_count);
                return 1;
            }
            printf("{\"seconds\": %.6f, \"connections\": %u}\n", now_s() - began, connection_count);
            fflush(stdout);
        } else if (sscanf(line, "go %u %u", &window, &count) == 2 && window >= 1 && window <= WINDOW_MAX) {
            if (go(count)) return 1;
        } else {
            fail("unknown command", (uint8_t *)line, strlen(line));
        }
    }
    return 0;
}
