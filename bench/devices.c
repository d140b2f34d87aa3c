/* Many devices in one process: the load, which must cost less than the server that it measures.
 *
 * It opens the connections of a plan, copies ready-made bytes, and counts what comes back by looking for a few keys in
 * each frame: outcome entries, and for each delta the changes that it covers (`to` - `from`). It decodes nothing else;
 * the Python driver made every byte that is sent.
 *
 * devices PORT PLAN OPENINGS_PER_S
 * PLAN: u32 connections; for each: bytes upgrade, hello, subscribe (empty: none); u32 pushes; for each: u32 changes in
 *       it, bytes. `bytes` are a u32 size and that many bytes; integers are little-endian.
 * Commands on stdin, one answer line (JSON) each on stdout:
 *   open              connect all, no faster than the server admits; answered when all are welcomed and subscribed
 *   go WINDOW COUNT   each connection that has pushes sends the next COUNT of them, WINDOW unanswered ones at most;
 *                     answered when all outcomes are here and every subscriber has every change
 *   pace RATE COUNT   the only publisher sends COUNT pushes of one change each, RATE a second whatever is unanswered;
 *                     answered likewise, with how long each change took until a subscriber had it
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

enum { OPENING_MAX = 256, READ_BYTES = 1 << 18, WINDOW_MAX = 1024, STALL_S = 15, LATENCIES_MAX = 1 << 20 };

struct bytes { const uint8_t *at; uint32_t size; };

enum state { CLOSED, UPGRADING, GREETING, SUBSCRIBING, OPEN };

struct connection {
    int fd;
    enum state state;
    struct bytes upgrade, hello, subscribe;
    const uint8_t *next_push; /* in the plan */
    uint32_t pushes_left, to_send;
    uint64_t sent, answered; /* pushes */
    uint32_t unanswered_entries[WINDOW_MAX]; /* outcome entries that each unanswered push still expects */
    double sent_s[WINDOW_MAX];
    struct bytes unsent; /* rest of a push that the socket did not take */
    uint64_t seq;        /* `to` of the last delta */
    uint8_t *rest;       /* a frame that is not complete yet */
    size_t rest_size, rest_room;
};

static struct connection *connections;
static uint32_t connection_count, subscriber_count, publisher_count, open_count, next_to_open;
static int poller;
static struct sockaddr_in server;
static uint8_t input[READ_BYTES];
static uint32_t window, openings_per_s;
static uint64_t outcomes, applied, delivered, frames, received_bytes;
static float latencies_ms[LATENCIES_MAX], seen_ms[LATENCIES_MAX];
static uint32_t latency_count, seen_count;
static double *paced_s; /* while pacing: when each change left, by its number since the pace began */
static uint32_t paced_count;
static uint64_t paced_from; /* the space's seq before the first of them */
static double next_due_s, pace_s;
static struct connection *pacer;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what, const uint8_t *at, size_t size) {
    fprintf(stderr, "devices: %s: ", what);
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
    connection_count = u32(&at);
    connections = calloc(connection_count, sizeof *connections);
    for (uint32_t i = 0; i < connection_count; i++) {
        struct connection *c = &connections[i];
        c->upgrade = taken(&at), c->hello = taken(&at), c->subscribe = taken(&at);
        c->pushes_left = u32(&at);
        c->next_push = at;
        for (uint32_t k = 0; k < c->pushes_left; k++) u32(&at), taken(&at);
        subscriber_count += c->subscribe.size > 0;
        publisher_count += c->pushes_left > 0;
    }
}

static void send_some(struct connection *c, struct bytes b) {
    ssize_t n = send(c->fd, b.at, b.size, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) fail(strerror(errno), NULL, 0);
    if (n < 0) n = 0;
    c->unsent = (struct bytes){b.at + n, b.size - n};
    uint32_t events = EPOLLIN | (c->unsent.size ? EPOLLOUT : 0);
    if (n < b.size) epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){events, {.ptr = c}});
}

static void push_more(struct connection *c) {
    while (!c->unsent.size && c->to_send && c->sent - c->answered < window) {
        uint32_t entries = u32(&c->next_push);
        struct bytes frame = taken(&c->next_push);
        c->unanswered_entries[c->sent % WINDOW_MAX] = entries;
        c->sent_s[c->sent % WINDOW_MAX] = now_s();
        c->sent++, c->to_send--, c->pushes_left--;
        send_some(c, frame);
    }
}

/* The pushes that are due. One that the server is too slow for is an end, not a wait: a rate that gives way to the
 * server would hide how late the changes are. */
static void pace_more(void) {
    struct connection *c = pacer;
    if (!c) return;
    while (c->to_send && next_due_s <= now_s()) {
        if (c->unsent.size || c->sent - c->answered >= WINDOW_MAX) fail("the server does not keep up", NULL, 0);
        paced_s[paced_count++] = now_s();
        window = c->sent - c->answered + 1;
        uint32_t rest = c->to_send - 1;
        c->to_send = 1;
        push_more(c);
        c->to_send = rest;
        next_due_s += pace_s;
    }
    window = 0; /* an outcome that comes sends nothing */
}

static uint64_t msgpack_uint(const uint8_t *at) {
    uint64_t value = 0;
    int size = *at == 0xcc ? 1 : *at == 0xcd ? 2 : *at == 0xce ? 4 : *at == 0xcf ? 8 : 0;
    if (!size) return *at;
    for (int i = 1; i <= size; i++) value = value << 8 | at[i];
    return value;
}

static const uint8_t *find(const uint8_t *at, const uint8_t *end, const char *what) {
    return at < end ? memmem(at, end - at, what, strlen(what)) : NULL;
}

static void take_outcomes(struct connection *c, const uint8_t *at, const uint8_t *end) {
    while ((at = find(at, end, "\xa8outcomes")) != NULL) {
        at += 9;
        uint32_t count = *at == 0xdc ? at[1] << 8 | at[2] : *at & 0x0f;
        outcomes += count;
        while (count) {
            uint32_t *left = &c->unanswered_entries[c->answered % WINDOW_MAX];
            if (c->answered == c->sent) fail("more outcomes than changes", at, end - at);
            uint32_t part = count < *left ? count : *left;
            count -= part, *left -= part;
            if (*left) break;
            if (latency_count < LATENCIES_MAX)
                latencies_ms[latency_count++] = (now_s() - c->sent_s[c->answered % WINDOW_MAX]) * 1e3;
            c->answered++;
        }
    }
}

static void greeted(struct connection *c) {
    c->state = c->subscribe.size ? SUBSCRIBING : OPEN;
    if (c->subscribe.size) send_some(c, c->subscribe);
    else open_count++;
}

/* What is compressed is not read: to a new device it is the welcome, to a subscriber one delta of one change (one is in
 * flight). */
static void take_compressed(struct connection *c) {
    frames++;
    if (c->state == GREETING) { greeted(c); return; }
    c->seq++, delivered++;
}

static void take_frame(struct connection *c, const uint8_t *at, size_t size) {
    const uint8_t *end = at + size, *found;
    frames++;
    if (c->state == GREETING) {
        if (!find(at, end, "\xa7resumed")) fail("no welcome", at, size);
        greeted(c);
        return;
    }
    if (find(at, end, "\xa5retry")) fail("the server answers with an error", at, size);
    if (c->state == SUBSCRIBING && (found = find(at, end, "\xa4head")) && find(at, end, "\xa4mode")) {
        c->state = OPEN;
        open_count++;
        return;
    }
    if (c->to_send || c->sent != c->answered) {
        take_outcomes(c, at, end);
        for (found = at; (found = find(found, end, "\xa7" "applied")) != NULL; found++) applied++;
        push_more(c);
    }
    const uint8_t *near = size > 512 ? at + 512 : end; /* the positions stand before the documents */
    const uint8_t *from = find(at, near, "\xa4" "from");
    const uint8_t *to = from ? find(from, near, "\xa2to") : NULL;
    if (to) {
        uint64_t first = msgpack_uint(from + 5), last = msgpack_uint(to + 3);
        if (first < c->seq) first = c->seq;
        if (last > first) delivered += last - first;
        for (uint64_t seq = first; paced_s && seq < last && seen_count < LATENCIES_MAX; seq++)
            seen_ms[seen_count++] = (now_s() - paced_s[seq - paced_from]) * 1e3;
        if (last > c->seq) c->seq = last;
    }
}

static void keep(struct connection *c, const uint8_t *at, size_t size) {
    if (!size) return;
    if (c->rest_room < c->rest_size + size) c->rest = realloc(c->rest, c->rest_room = 2 * (c->rest_size + size));
    memcpy(c->rest + c->rest_size, at, size);
    c->rest_size += size;
}

/* The whole frames at the beginning of the bytes; returns how many bytes they take. */
static size_t take_frames(struct connection *c, const uint8_t *at, size_t size) {
    const uint8_t *begin = at, *end = at + size;
    if (c->state == UPGRADING) {
        const uint8_t *found = find(at, end, "\r\n\r\n");
        if (!found) return 0;
        if (!find(at, found, " 101 ")) fail("the upgrade is refused", at, size);
        at = found + 4;
        c->state = GREETING;
        send_some(c, c->hello);
    }
    for (;;) {
        size_t left = end - at, head = 2;
        if (left < 2) break;
        uint64_t length = at[1] & 0x7f;
        if (length == 126) head = 4; else if (length == 127) head = 10;
        if (left < head) break;
        if (head == 4) length = at[2] << 8 | at[3];
        if (head == 10) for (length = 0, left = 2; left < 10; left++) length = length << 8 | at[left];
        if ((size_t)(end - at) < head + length) break;
        if ((at[0] & 0x0f) == 8) fail("the server closes", at + head, length);
        if (at[0] & 0x40) take_compressed(c);
        else if ((at[0] & 0x0f) < 8) take_frame(c, at + head, length);
        at += head + length;
    }
    return at - begin;
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->fd, input, sizeof input, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) fail("the server hangs up", NULL, 0);
    received_bytes += got;
    if (!c->rest_size) { /* the usual case: whole frames, counted where they lie */
        size_t used = take_frames(c, input, got);
        keep(c, input + used, got - used);
    } else {
        keep(c, input, got);
        size_t used = take_frames(c, c->rest, c->rest_size);
        c->rest_size -= used;
        memmove(c->rest, c->rest + used, c->rest_size);
    }
}

static void open_next(void) {
    struct connection *c = &connections[next_to_open++];
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (void *)&server, sizeof server)) { perror("connect"); exit(1); }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &(struct epoll_event){EPOLLIN, {.ptr = c}});
    c->state = UPGRADING;
    send_some(c, c->upgrade);
}

/* Serve until `is_done`, opening what is not open yet; false when nothing has come for `STALL_S`. */
static int serve(int (*is_done)(void)) {
    double began = now_s(), heard = began;
    while (!is_done()) {
        uint32_t admitted = (now_s() - began) * openings_per_s + 32;
        while (next_to_open < connection_count && next_to_open < admitted && next_to_open < open_count + OPENING_MAX)
            open_next();
        struct epoll_event events[512];
        int wait_ms = next_to_open < connection_count ? 5 : 1000;
        if (pacer && pacer->to_send) { /* rounded up: late by less than a millisecond, instead of a busy loop */
            double left_s = next_due_s - now_s();
            wait_ms = left_s > 0 ? (int)(left_s * 1e3) + 1 : 0;
        }
        int ready = epoll_wait(poller, events, 512, wait_ms);
        if (ready) heard = now_s();
        else if (now_s() - heard > STALL_S) return 0;
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) {
                struct bytes rest = c->unsent;
                c->unsent.size = 0;
                epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &(struct epoll_event){EPOLLIN, {.ptr = c}});
                send_some(c, rest);
                push_more(c);
            }
            if (events[i].events & ~EPOLLOUT) receive(c);
        }
        pace_more();
    }
    return 1;
}

static int all_open(void) { return open_count == connection_count; }

static uint64_t outcomes_expected, delivered_expected;
static int all_here(void) { return outcomes >= outcomes_expected && delivered >= delivered_expected; }

static int by_size(const void *a, const void *b) { float d = *(float *)a - *(float *)b; return d < 0 ? -1 : d > 0; }

static double at_share(const float *sorted, uint32_t count, double share) {
    return count ? sorted[(uint32_t)(share * (count - 1))] : 0;
}

/* `rate` 0: as fast as the window lets it. */
static int go(uint32_t count, uint32_t rate) {
    outcomes = applied = delivered = frames = received_bytes = outcomes_expected = delivered_expected = 0;
    latency_count = seen_count = paced_count = 0;
    paced_from = 0;
    for (uint32_t i = 0; i < connection_count; i++) {
        struct connection *c = &connections[i];
        if (!c->pushes_left) continue;
        if (c->pushes_left < count) fail("the plan has too few pushes", NULL, 0);
        const uint8_t *at = c->next_push;
        uint64_t entries = 0;
        for (uint32_t k = 0; k < count; k++) entries += u32(&at), taken(&at);
        outcomes_expected += entries;
        /* One publisher feeds all subscribers; several feed their own space each. */
        delivered_expected += publisher_count == 1 ? entries * subscriber_count : c->subscribe.size ? entries : 0;
        c->to_send = count;
    }
    for (uint32_t i = 0; i < connection_count; i++)
        if (connections[i].seq > paced_from) paced_from = connections[i].seq;
    double began = now_s();
    if (rate) {
        if (publisher_count != 1) fail("a pace needs one publisher", NULL, 0);
        for (pacer = connections; !pacer->to_send; pacer++) {}
        paced_s = calloc(count, sizeof *paced_s);
        pace_s = 1.0 / rate, next_due_s = began;
    }
    for (uint32_t i = 0; i < connection_count && !rate; i++) push_more(&connections[i]);
    int is_done = serve(all_here);
    free(paced_s);
    paced_s = NULL, pacer = NULL;
    if (!is_done) {
        fprintf(stderr, "devices: nothing came for %d s: %lu of %lu outcomes, %lu of %lu changes delivered\n", STALL_S,
                outcomes, outcomes_expected, delivered, delivered_expected);
        return 1;
    }
    double took = now_s() - began;
    qsort(latencies_ms, latency_count, sizeof *latencies_ms, by_size);
    qsort(seen_ms, seen_count, sizeof *seen_ms, by_size);
    printf("{\"seconds\": %.6f, \"outcomes\": %lu, \"applied\": %lu, \"delivered\": %lu, \"frames\": %lu, \"bytes\": %lu,"
           " \"ack_p50_ms\": %.3f, \"ack_p99_ms\": %.3f, \"seen_count\": %u, \"seen_p50_ms\": %.3f, \"seen_p99_ms\": %.3f}\n",
           took, outcomes, applied, delivered, frames, received_bytes, at_share(latencies_ms, latency_count, 0.5),
           at_share(latencies_ms, latency_count, 0.99), seen_count, at_share(seen_ms, seen_count, 0.5),
           at_share(seen_ms, seen_count, 0.99));
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv) {
    if (argc != 4) { fputs("devices PORT PLAN OPENINGS_PER_S\n", stderr); return 2; }
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    server = (struct sockaddr_in){AF_INET, htons(atoi(argv[1])), {htonl(INADDR_LOOPBACK)}, {0}};
    poller = epoll_create1(0);
    openings_per_s = atoi(argv[3]);
    read_plan(argv[2]);
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        uint32_t count, rate;
        if (!strcmp(line, "open\n")) {
            double began = now_s();
            if (!serve(all_open)) {
                fprintf(stderr, "devices: %u of %u opened\n", open_count, connection_count);
                return 1;
            }
            printf("{\"seconds\": %.6f, \"connections\": %u}\n", now_s() - began, connection_count);
            fflush(stdout);
        } else if (sscanf(line, "go %u %u", &window, &count) == 2 && window >= 1 && window <= WINDOW_MAX) {
            if (go(count, 0)) return 1;
        } else if (sscanf(line, "pace %u %u", &rate, &count) == 2 && rate >= 1 && count >= 1) {
            if (go(count, rate)) return 1;
        } else {
            fail("unknown command", (uint8_t *)line, strlen(line));
        }
    }
    return 0;
}
