/* What a fan-out cannot beat: one send() per client and message, and nothing else.

   usage: sendloop N MESSAGES BYTES MARKER      the sockets are descriptors 3 to 3+N-1
   Begins when a line comes; the last message ends with the marker. Prints the CPU seconds. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    int n = atoi(argv[1]), messages = atoi(argv[2]), size = atoi(argv[3]), one = 1;
    const char *marker = argv[4];
    char *message = malloc(size);
    memset(message, 'x', size);
    for (int i = 0; i < n; i++) setsockopt(3 + i, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (getchar() == EOF) return 1;
    for (int k = 0; k < messages; k++) {
        if (k == messages - 1) memcpy(message + size - strlen(marker), marker, strlen(marker));
        for (int i = 0; i < n; i++) {
            int at = 0;
            while (at < size) {
                ssize_t sent = send(3 + i, message + at, size - at, MSG_DONTWAIT | MSG_NOSIGNAL);
                struct pollfd full = {3 + i, POLLOUT, 0};
                if (sent < 0)
                    poll(&full, 1, -1);
                else
                    at += sent;
            }
        }
    }
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    printf("%.4f\n", u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6);
    return 0;
}
