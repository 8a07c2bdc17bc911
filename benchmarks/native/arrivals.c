/* The receiving end of paced orders: when each message arrived at each client.

   usage: arrivals N MESSAGES MARK       the sockets are descriptors 3 to 3+N-1
   A message contains the mark once, followed by its number in 8 digits. Prints "ready", and at the end MESSAGES x N
   lines: the monotonic time at which the message arrived, client by client. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define DIGITS 8

static char buffer[1 << 20];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    int n = atoi(argv[1]), messages = atoi(argv[2]), poll = epoll_create1(0);
    const char *mark = argv[3];
    size_t m = strlen(mark), keep = m + DIGITS - 1; /* a mark may come in two reads */
    char *tails = calloc(n, keep);
    double *at = calloc((size_t)n * messages, sizeof *at);
    long left = (long)n * messages;
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
            memcpy(buffer, tails + i * keep, keep);
            ssize_t got = recv(3 + i, buffer + keep, sizeof buffer - keep, MSG_DONTWAIT);
            if (got == 0) {
                fprintf(stderr, "socket %d was closed\n", i);
                return 1;
            }
            if (got < 0) continue;
            double time = now();
            char *end = buffer + keep + got, *found = buffer;
            while ((found = memmem(found, end - found, mark, m)) && end - found >= (long)(m + DIGITS)) {
                char digits[DIGITS + 1] = "";
                memcpy(digits, found + m, DIGITS);
                int number = atoi(digits);
                if (number < 0 || number >= messages) return 1;
                double *arrived = at + (size_t)number * n + i;
                if (!*arrived) {
                    *arrived = time;
                    left--;
                }
                found += m;
            }
            memcpy(tails + i * keep, end - keep, keep);
        }
    }
    for (size_t k = 0; k < (size_t)n * messages; k++) printf("%.6f\n", at[k]);
    return 0;
}
