/*
 * Preloaded into an nginx by socket_faults.t: one call of one process that is about sockets fails, see fault.h. What the
 * call was to do is not done.
 */

#define _GNU_SOURCE

#include "fault.h"

#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define CALL(error, ...) (fails(error) ? -1 : syscall(__VA_ARGS__))

int socket(int domain, int type, int protocol)
{
    return CALL(EMFILE, SYS_socket, domain, type, protocol);
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags)
{
    return CALL(EMFILE, SYS_accept4, fd, address, length, flags);
}

int connect(int fd, const struct sockaddr *address, socklen_t length)
{
    return CALL(ECONNREFUSED, SYS_connect, fd, address, length);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    return CALL(ENOMEM, SYS_setsockopt, fd, level, name, value, length);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    return CALL(ENOBUFS, SYS_getsockopt, fd, level, name, value, length);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    void *argument;

    va_start(arguments, request);
    argument = va_arg(arguments, void *);
    va_end(arguments);

    return CALL(EBADF, SYS_ioctl, fd, request, argument);
}

int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
{
    return CALL(ENOMEM, SYS_epoll_ctl, epoll, operation, fd, event);
}

ssize_t recv(int fd, void *bytes, size_t size, int flags)
{
    return CALL(ECONNRESET, SYS_recvfrom, fd, bytes, size, flags, NULL, NULL);
}

ssize_t readv(int fd, const struct iovec *pieces, int count)
{
    return CALL(ECONNRESET, SYS_readv, fd, pieces, count);
}

ssize_t send(int fd, const void *bytes, size_t size, int flags)
{
    return CALL(EPIPE, SYS_sendto, fd, bytes, size, flags, NULL, 0);
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    return CALL(EPIPE, SYS_writev, fd, pieces, count);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t size)
{
    return CALL(EPIPE, SYS_sendfile, to, from, offset, size);
}

/* OpenSSL's way; others read and write files so. */

static int is_socket(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode);
}

ssize_t read(int fd, void *bytes, size_t size)
{
    return is_socket(fd) ? CALL(ECONNRESET, SYS_read, fd, bytes, size)
                         : syscall(SYS_read, fd, bytes, size);
}

ssize_t write(int fd, const void *bytes, size_t size)
{
    return is_socket(fd) ? CALL(EPIPE, SYS_write, fd, bytes, size)
                         : syscall(SYS_write, fd, bytes, size);
}
