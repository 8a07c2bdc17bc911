/* The receiving end of a fan-out: reads from many sockets until each has brought the marker.

   usage: sink N MARKER       the sockets are descriptors 3 to 3+N-1
   Prints the monotonic time of the last marker, the bytes and the number of reads. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

static char buffer[1 << 20];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int n = atoi(argv[1]), left = n, poll = epoll_create1(0);
    const char *marker = argv[2];
    size_t m = strlen(marker);
    char *tails = calloc(n, m), *done = calloc(n, 1); /* a marker may come in two reads */
    unsigned long long bytes = 0, reads = 0;
    struct epoll_event events[512];
    for (int i = 0; i < n; i++) {
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = i};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, 3 + i, &e)) return 1;
    }
    puts("ready");
    fflush(stdout);
    while (left) {
        int ready = epoll_wait(poll, events, 512, -1);
        for (int j = 0; j < ready; j++) {
            int i = events[j].data.u32;
            char *tail = tails + i * m;
            memcpy(buffer, tail, m);
            ssize_t got = recv(3 + i, buffer + m, sizeof buffer - m, MSG_DONTWAIT);
            if (got == 0) {
                fprintf(stderr, "socket %d was closed\n", i);
                return 1;
            }
            if (got < 0) continue;
            reads++;
            bytes += got;
            if (!done[i] && memmem(buffer, m + got, marker, m)) {
                done[i] = 1;
                left--;
            }
            memmove(tail, buffer + got, m);
        }
    }
    printf("%.6f %llu %llu\n", now(), bytes, reads);
    return 0;
}
