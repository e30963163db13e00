/* An independent SCTP stack as the peer of tests/usrsctp.rs: dials or accepts one association over UDP
 * encapsulation, exchanges messages with PPID 11 and ends the association in order.
 *
 * dial   PEER OWN OWN_UDP PEER_UDP   prints "up", sends 3 messages, expects them back, shuts down
 * accept PEER OWN OWN_UDP PEER_UDP   prints "ready", echoes until the peer shuts down
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <usrsctp.h>

#define PORT 3863
#define PPID 11

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

static struct sockaddr_in address(const char *ip, int port)
{
    struct sockaddr_in sin;
    memset(&sin, 0, sizeof sin);
    sin.sin_family = AF_INET;
    sin.sin_port = htons(port);
    if (inet_pton(AF_INET, ip, &sin.sin_addr) != 1)
        die("address");
    return sin;
}

static void put(struct socket *s, const void *data, size_t length)
{
    struct sctp_sndinfo info;
    memset(&info, 0, sizeof info);
    info.snd_ppid = htonl(PPID);
    if (usrsctp_sendv(s, data, length, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0) < 0)
        die("send");
}

/* One whole message; 0 at the end of the association. The library ignores receive timeouts: the test kills us. */
static size_t get(struct socket *s, char *buffer, size_t room)
{
    size_t length = 0;
    for (;;) {
        struct sctp_rcvinfo info;
        socklen_t from_length = 0, info_length = sizeof info;
        unsigned type = 0;
        int flags = 0;
        ssize_t n = usrsctp_recvv(s, buffer + length, room - length, NULL, &from_length, &info, &info_length, &type, &flags);
        if (n < 0)
            die("receive");
        if (n == 0)
            return 0;
        if (type == SCTP_RECVV_RCVINFO && ntohl(info.rcv_ppid) != PPID) {
            fprintf(stderr, "PPID %u\n", ntohl(info.rcv_ppid));
            exit(1);
        }
        length += n;
        if (flags & MSG_EOR)
            return length;
    }
}

int main(int argc, char **argv)
{
    static char out[60000], in[70000];
    static const size_t sizes[] = {4, 1400, 60000};
    int on = 1;

    if (argc != 6)
        return 64;
    alarm(20); /* never outlives a test */
    usrsctp_init(atoi(argv[4]), NULL, NULL);
    usrsctp_sysctl_set_sctp_blackhole(2);

    struct socket *s = usrsctp_socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP, NULL, NULL, 0, NULL);
    if (!s)
        die("socket");
    struct sctp_udpencaps encaps;
    memset(&encaps, 0, sizeof encaps);
    encaps.sue_address.ss_family = AF_INET;
    encaps.sue_port = htons(atoi(argv[5]));
    if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_REMOTE_UDP_ENCAPS_PORT, &encaps, sizeof encaps) < 0)
        die("encapsulation port");
    if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_RECVRCVINFO, &on, sizeof on) < 0)
        die("receive information");
    struct sockaddr_in own = address(argv[3], PORT), peer = address(argv[2], PORT);
    if (usrsctp_bind(s, (struct sockaddr *)&own, sizeof own) < 0)
        die("bind");

    if (strcmp(argv[1], "dial") == 0) {
        if (usrsctp_connect(s, (struct sockaddr *)&peer, sizeof peer) < 0)
            die("connect");
        printf("up\n");
        fflush(stdout);
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            memset(out, 'a' + i, sizes[i]);
            put(s, out, sizes[i]);
            if (get(s, in, sizeof in) != sizes[i] || memcmp(in, out, sizes[i]) != 0) {
                fprintf(stderr, "message %zu came back wrong\n", i);
                return 1;
            }
        }
        if (usrsctp_shutdown(s, SHUT_WR) < 0)
            die("shutdown");
        while (get(s, in, sizeof in) > 0)
            ;
    } else {
        if (usrsctp_listen(s, 1) < 0)
            die("listen");
        printf("ready\n");
        fflush(stdout);
        struct socket *a = usrsctp_accept(s, NULL, NULL);
        if (!a)
            die("accept");
        size_t length;
        while ((length = get(a, in, sizeof in)) > 0)
            put(a, in, length);
        usrsctp_close(a);
    }
    usrsctp_close(s);
    for (int i = 0; i < 200 && usrsctp_finish() != 0; i++)
        usleep(10000);
    printf("done\n");
    return 0;
}
