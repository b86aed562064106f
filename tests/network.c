/* Preloaded into a process and its children: write where they connect and send to, one per line. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void note(const char *name) {
    const char *path = getenv("NETWORK_RECORD");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644) : -1;
    char line[300];
    int length = snprintf(line, sizeof line, "%s\n", name);
    if (file >= 0 && write(file, line, length) < 0) abort();
    if (file >= 0) close(file);
}

static void note_address(const struct sockaddr *address) {
    char text[INET6_ADDRSTRLEN];
    if (!address) return;
    if (address->sa_family == AF_INET)
        note(inet_ntop(AF_INET, &((struct sockaddr_in *)address)->sin_addr, text, sizeof text));
    if (address->sa_family == AF_INET6)
        note(inet_ntop(AF_INET6, &((struct sockaddr_in6 *)address)->sin6_addr, text, sizeof text));
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
    int (*next)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    note_address(address);
    return next(socket, address, length);
}

ssize_t sendto(int socket, const void *data, size_t size, int flags,
               const struct sockaddr *address, socklen_t length) {
    ssize_t (*next)(int, const void *, size_t, int, const struct sockaddr *, socklen_t) =
        dlsym(RTLD_NEXT, "sendto");
    note_address(address);
    return next(socket, data, size, flags, address, length);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags) {
    ssize_t (*next)(int, const struct msghdr *, int) = dlsym(RTLD_NEXT, "sendmsg");
    note_address(message->msg_name);
    return next(socket, message, flags);
}

/* The C library resolves names by its own connect, which is not this one. */
int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
    int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **) =
        dlsym(RTLD_NEXT, "getaddrinfo");
    if (name) note(name);
    return next(name, service, hints, result);
}
