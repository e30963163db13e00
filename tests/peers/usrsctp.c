/* An independent SCTP stack as the peer of transport/tests/usrsctp.rs: any number of associations from one UDP port
 * (RFC 6951), told what to do line by line.
 *
 * usrsctp ADDRESS UDP_PORT   ADDRESS is what its sockets bind, IPv4 or IPv6
 *
 *   open PORT                          binds an SCTP port and accepts there; prints "open PORT"
 *   dial PORT ADDRESS UDP_PORT PORT    from an own port to another
 *   send PORT ASSOC PPID SIZE          SIZE bytes: 0, 1, 2 ... 250, 0, 1 ...
 *   shutdown PORT ASSOC                in order
 *   abort PORT ASSOC
 *
 * It prints what happened, one line each; PORT and ASSOC name an association:
 *   ready | open PORT | up PORT ASSOC | restart PORT ASSOC | message PORT ASSOC STREAM PPID SIZE SUM | down PORT ASSOC HOW
 * SUM is FNV-1a of the message, 32 bits in hexadecimal.
 * The end of its input ends it: its associations are aborted.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <usrsctp.h>

#define MOST 16
#define LARGEST 70000

struct partial {
    struct partial *next;
    struct socket *socket;
    sctp_assoc_t assoc;
    size_t length;
    char bytes[LARGEST];
};

static struct {
    struct socket *socket;
    int port;
} opened[MOST];
static struct partial *partials;

static void die(const char *what)
{
    fprintf(stderr, "usrsctp: %s: %s\n", what, strerror(errno));
    _exit(1);
}

static int index_of(const struct socket *socket, int port)
{
    for (int i = 0; i < MOST; i++)
        if (socket ? opened[i].socket == socket : opened[i].port == port)
            return i;
    errno = ENOENT;
    die("no such port");
    return -1;
}

static socklen_t address(const char *text, int port, struct sockaddr_storage *to)
{
    struct sockaddr_in *v4 = (struct sockaddr_in *)to;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)to;

    memset(to, 0, sizeof *to);
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons(port);
        return sizeof *v4;
    }
    if (inet_pton(AF_INET6, text, &v6->sin6_addr) != 1)
        die("address");
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    return sizeof *v6;
}

static void put(struct socket *socket, sctp_assoc_t assoc, unsigned ppid, int flags, const void *data, size_t length)
{
    struct sctp_sndinfo info;

    memset(&info, 0, sizeof info);
    info.snd_ppid = htonl(ppid);
    info.snd_flags = flags;
    info.snd_assoc_id = assoc;
    if (usrsctp_sendv(socket, data, length, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0) < 0)
        die("send");
}

static void notified(struct socket *socket, const union sctp_notification *notice)
{
    const struct sctp_assoc_change *change = &notice->sn_assoc_change;
    int port = opened[index_of(socket, 0)].port;

    if (notice->sn_header.sn_type != SCTP_ASSOC_CHANGE)
        return;
    switch (change->sac_state) {
    case SCTP_COMM_UP:
        printf("up %d %u\n", port, change->sac_assoc_id);
        break;
    case SCTP_RESTART:
        printf("restart %d %u\n", port, change->sac_assoc_id);
        break;
    case SCTP_COMM_LOST:
        printf("down %d %u lost\n", port, change->sac_assoc_id);
        break;
    case SCTP_SHUTDOWN_COMP:
        printf("down %d %u closed\n", port, change->sac_assoc_id);
        break;
    case SCTP_CANT_STR_ASSOC:
        printf("down %d %u failed\n", port, change->sac_assoc_id);
        break;
    }
}

/* Called by one thread of the library for all sockets. Long messages come in pieces. */
static int received(struct socket *socket, union sctp_sockstore from, void *data, size_t length,
                    struct sctp_rcvinfo info, int flags, void *context)
{
    struct partial **at, *message;
    uint32_t sum = 2166136261u;

    (void)from;
    (void)context;
    if (!data)
        return 1;
    if (flags & MSG_NOTIFICATION) {
        notified(socket, data);
        free(data);
        return 1;
    }
    for (at = &partials; *at; at = &(*at)->next)
        if ((*at)->socket == socket && (*at)->assoc == info.rcv_assoc_id)
            break;
    if (!*at) {
        if (!(*at = calloc(1, sizeof **at)))
            die("memory");
        (*at)->socket = socket;
        (*at)->assoc = info.rcv_assoc_id;
    }
    message = *at;
    if (length > sizeof message->bytes - message->length)
        die("message too long");
    memcpy(message->bytes + message->length, data, length);
    message->length += length;
    free(data);
    if (!(flags & MSG_EOR))
        return 1;
    *at = message->next;
    for (size_t i = 0; i < message->length; i++)
        sum = (sum ^ (unsigned char)message->bytes[i]) * 16777619u;
    printf("message %d %u %u %u %zu %08x\n", opened[index_of(socket, 0)].port, message->assoc, info.rcv_sid,
           ntohl(info.rcv_ppid), message->length, sum);
    free(message);
    return 1;
}

static void open_port(const char *own, int port)
{
    struct sockaddr_storage bound;
    socklen_t length = address(own, port, &bound);
    struct sctp_event event = {.se_assoc_id = SCTP_ALL_ASSOC, .se_type = SCTP_ASSOC_CHANGE, .se_on = 1};
    int size = 1 << 20, on = 1, i = index_of(NULL, 0);
    struct socket *socket =
        usrsctp_socket(bound.ss_family, SOCK_SEQPACKET, IPPROTO_SCTP, received, NULL, 0, NULL);

    if (!socket)
        die("socket");
    if (usrsctp_setsockopt(socket, IPPROTO_SCTP, SCTP_EVENT, &event, sizeof event) < 0 ||
        usrsctp_setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &size, sizeof size) < 0 ||
        usrsctp_setsockopt(socket, SOL_SOCKET, SO_RCVBUF, &size, sizeof size) < 0 ||
        usrsctp_setsockopt(socket, IPPROTO_SCTP, SCTP_NODELAY, &on, sizeof on) < 0 ||
        usrsctp_set_non_blocking(socket, 1) < 0)
        die("option");
    opened[i].socket = socket;
    opened[i].port = port;
    if (usrsctp_bind(socket, (struct sockaddr *)&bound, length) < 0 || usrsctp_listen(socket, 1) < 0)
        die("bind");
    printf("open %d\n", port);
}

static void dial(struct socket *socket, const char *ip, int udp_port, int port)
{
    struct sockaddr_storage peer;
    socklen_t length = address(ip, port, &peer);
    struct sctp_udpencaps encapsulation;

    memset(&encapsulation, 0, sizeof encapsulation);
    encapsulation.sue_address.ss_family = peer.ss_family;
    encapsulation.sue_port = htons(udp_port);
    if (usrsctp_setsockopt(socket, IPPROTO_SCTP, SCTP_REMOTE_UDP_ENCAPS_PORT, &encapsulation, sizeof encapsulation) < 0)
        die("encapsulation port");
    /* EALREADY: the other side's dial has overtaken this one. */
    if (usrsctp_connect(socket, (struct sockaddr *)&peer, length) < 0 && errno != EINPROGRESS && errno != EALREADY)
        die("dial");
}

int main(int argc, char **argv)
{
    static char line[256], pattern[LARGEST];
    char ip[64];
    unsigned port, assoc, ppid, size, udp_port, to;

    if (argc != 3)
        return 64;
    alarm(60); /* never outlives a test for long */
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < sizeof pattern; i++)
        pattern[i] = i % 251;
    usrsctp_init(atoi(argv[2]), NULL, NULL);
    printf("ready\n");
    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "open %u", &port) == 1)
            open_port(argv[1], port);
        else if (sscanf(line, "dial %u %63s %u %u", &port, ip, &udp_port, &to) == 4)
            dial(opened[index_of(NULL, port)].socket, ip, udp_port, to);
        else if (sscanf(line, "send %u %u %u %u", &port, &assoc, &ppid, &size) == 4 && size <= LARGEST)
            put(opened[index_of(NULL, port)].socket, assoc, ppid, 0, pattern, size);
        else if (sscanf(line, "shutdown %u %u", &port, &assoc) == 2)
            put(opened[index_of(NULL, port)].socket, assoc, 0, SCTP_EOF, "", 0);
        else if (sscanf(line, "abort %u %u", &port, &assoc) == 2)
            put(opened[index_of(NULL, port)].socket, assoc, 0, SCTP_ABORT, "", 0);
        else {
            fprintf(stderr, "usrsctp: what is %s", line);
            return 64;
        }
    }
    for (int i = 0; i < MOST; i++)
        if (opened[i].socket)
            usrsctp_close(opened[i].socket);
    _exit(0);
}
