#include "http/config/secret_file.h"

#include "nginx/secret_memory.h"

namespace idempotency {

namespace {

// Closes the file.
class OpenFile {
public:
    explicit OpenFile(const ngx_str_t &name)
        // without NGX_FILE_NONBLOCK it would wait for the writer of a named pipe
        : fd_(ngx_open_file(name.data, NGX_FILE_RDONLY | NGX_FILE_NONBLOCK, NGX_FILE_OPEN, 0))
    {}

    ~OpenFile()
    {
        if (fd_ != NGX_INVALID_FILE) {
            (void) ngx_close_file(fd_);
        }
    }

    OpenFile(const OpenFile &) = delete;
    OpenFile &operator=(const OpenFile &) = delete;

    ngx_fd_t fd() const { return fd_; }

private:
    ngx_fd_t fd_;
};

}  // namespace

size_t read_secret_file(ngx_conf_t *cf, const ngx_str_t &directive, const ngx_str_t &name,
                        u_char *buffer, size_t size, const char *content)
{
    OpenFile file(name);
    ngx_file_info_t info;

    if (file.fd() == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, "\"%V\" can't open \"%V\"", &directive,
                           &name);
        return 0;
    }

    if (ngx_fd_info(file.fd(), &info) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, "\"%V\" can't read \"%V\"", &directive,
                           &name);
        return 0;
    }

    if (!ngx_is_file(&info)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" can't use \"%V\": it is not a regular file", &directive, &name);
        return 0;
    }

    ssize_t length = ngx_read_fd(file.fd(), buffer, size);

    if (length < 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, "\"%V\" can't read \"%V\"", &directive,
                           &name);
        return 0;
    }

    if (length == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" can't use \"%V\": the file is empty, and must have %s",
                           &directive, &name, content);
    }

    return static_cast<size_t>(length);
}

char *read_password_of_file(ngx_conf_t *cf, const ngx_str_t &directive, const ngx_str_t &name,
                            ngx_str_t &password)
{
    u_char buffer[1024];
    size_t size = read_secret_file(cf, directive, name, buffer, sizeof(buffer),
                                   "the password in its first line");

    if (size == 0) {
        return failed();
    }

    ngx_str_t line = {0, buffer};

    while (line.len < size && buffer[line.len] != '\n' && buffer[line.len] != '\r') {
        line.len++;
    }

    if (line.len == 0 || line.len == sizeof(buffer)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" can't use \"%V\": its first line must be the password, with 1 "
                           "to 1023 bytes",
                           &directive, &name);
    } else {
        password = copy_secret(cf->pool, line);
    }

    ngx_explicit_memzero(buffer, sizeof(buffer));
    return password.data != nullptr ? ok() : failed();
}

}  // namespace idempotency
