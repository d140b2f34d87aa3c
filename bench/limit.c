/* The limit: what a fan-out costs in C when nothing is done but sending.
 *
 * A server that answers every WebSocket upgrade and every hello and subscribe with bytes it was given, and each later
 * frame of the first connection (the publisher) with an outcome to it and a delta to all others: one send() each, the
 * same bytes, as many as the daemon sends. It parses, decides and stores nothing. `from` and `to` of the delta and the
 * n of the outcome are four bytes at known places, counted up, so that the same generator can count what arrives.
 *
 * limit UPGRADE WELCOME SUBSCRIBED OUTCOME N_AT DELTA FROM_AT TO_AT    (files, and offsets into them)
 * Prints its port on one line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CONNECTIONS_MAX = 65536, BUFFER = 1 << 16 };
struct bytes { char *at; size_t size; };
static int frames[CONNECTIONS_MAX]; /* by descriptor: frames received; -1 before the upgrade */
static int live[CONNECTIONS_MAX], live_count;
static char buffer[BUFFER];

static struct bytes file(const char *path) {
    FILE *f = fopen(path, "rb");
    struct bytes b = {malloc(BUFFER), 0};
    if (!f) { perror(path); exit(1); }
    b.size = fread(b.at, 1, BUFFER, f);
    fclose(f);
    return b;
}

static void put(struct bytes b, int at, uint32_t value) { value = htonl(value); memcpy(b.at + at, &value, 4); }

static void send_all(int fd, struct bytes b) {
    while (b.size) {
        ssize_t n = send(fd, b.at, b.size, MSG_NOSIGNAL);
        if (n < 0) { /* full: the generator is behind, which it must not be; wait for it */
            struct pollfd p = {fd, POLLOUT, 0};
            poll(&p, 1, 1000);
            continue;
        }
        b.at += n, b.size -= n;
    }
}

/* How many whole masked frames lie in the buffer: the generator sends each with one send(), so they are never cut. */
static int count_frames(ssize_t size) {
    int count = 0;
    for (ssize_t at = 0; at + 2 <= size; count++) {
        int n = buffer[at + 1] & 0x7f;
        at += n == 126 ? 8 + ((uint8_t)buffer[at + 2] << 8 | (uint8_t)buffer[at + 3]) : 6 + n;
    }
    return count;
}

int main(int argc, char **argv) {
    if (argc != 9) { fputs("limit UPGRADE WELCOME SUBSCRIBED OUTCOME N_AT DELTA FROM_AT TO_AT\n", stderr); return 2; }
    struct bytes upgrade = file(argv[1]), welcome = file(argv[2]), subscribed = file(argv[3]);
    struct bytes outcome = file(argv[4]), delta = file(argv[6]);
    int n_at = atoi(argv[5]), from_at = atoi(argv[7]), to_at = atoi(argv[8]), one = 1, publisher = -1;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), poller = epoll_create1(0);
    if (bind(listener, (void *)&address, length) || listen(listener, 4096)) { perror("listen"); return 1; }
    getsockname(listener, (void *)&address, &length);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &(struct epoll_event){EPOLLIN, {.fd = listener}});
    for (uint32_t seq = 0;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0 || fd >= CONNECTIONS_MAX) { perror("accept"); return 1; }
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                frames[fd] = -1;
                if (publisher < 0) publisher = fd;
                epoll_ctl(poller, EPOLL_CTL_ADD, fd, &(struct epoll_event){EPOLLIN, {.fd = fd}});
                continue;
            }
            ssize_t size = recv(fd, buffer, sizeof buffer, 0);
            if (size <= 0) return 0; /* the generator is done */
            if (frames[fd] < 0) { frames[fd] = 0; send_all(fd, upgrade); continue; }
            for (int count = count_frames(size); count > 0; count--) {
                if (frames[fd]++ == 0) { send_all(fd, welcome); continue; }
                if (fd != publisher) { send_all(fd, subscribed); live[live_count++] = fd; continue; }
                put(delta, from_at, seq), put(delta, to_at, ++seq), put(outcome, n_at, seq);
                send_all(fd, outcome);
                for (int k = 0; k < live_count; k++) send_all(live[k], delta);
            }
        }
    }
}
