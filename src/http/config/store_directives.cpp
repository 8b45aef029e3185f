// The directives in the block of a store, one by one.

#include "http/config/arguments.h"
#include "http/config/store_options.h"
#include "nginx/zone_segment.h"

namespace idempotency {

namespace {

char *read_size(ngx_conf_t *cf, off_t &field)
{
    off_t size = ngx_parse_offset(&arguments(cf)[1]);

    if (size == NGX_ERROR || size < kSmallestSegment) {
        return refuse(cf, 1, "a size of at least 256k is needed, such as 64m");
    }

    field = size;
    return NGX_CONF_OK;
}

char *read_number(ngx_conf_t *cf, ngx_int_t &field, ngx_int_t least, ngx_int_t most,
                  const char *expected)
{
    field = ngx_atoi(arguments(cf)[1].data, arguments(cf)[1].len);

    return field >= least && field <= most ? NGX_CONF_OK : refuse(cf, 1, expected);
}

char *read_time(ngx_conf_t *cf, ngx_uint_t argument, ngx_int_t &field)
{
    field = parse_time(&arguments(cf)[argument]);

    return field != NGX_ERROR
               ? NGX_CONF_OK
               : refuse(cf, argument, "a time above 0 is needed, such as 500ms or 1s");
}

char *read_text(ngx_conf_t *cf, ngx_str_t &field, const char *expected)
{
    field = arguments(cf)[1];
    return field.len > 0 ? NGX_CONF_OK : refuse(cf, 1, expected);
}

// The whole path of a file that is named relative to nginx's configuration.
char *read_path(ngx_conf_t *cf, ngx_uint_t argument, ngx_str_t &field)
{
    field = arguments(cf)[argument];

    if (field.len == 0) {
        return refuse(cf, argument, "the name of a file is needed");
    }

    return ngx_conf_full_name(cf->cycle, &field, 1) == NGX_OK ? NGX_CONF_OK : failed();
}

char *append(ngx_array_t &array, const ngx_str_t &text)
{
    auto *place = static_cast<ngx_str_t *>(ngx_array_push(&array));

    if (place == nullptr) {
        return failed();
    }

    *place = text;
    return NGX_CONF_OK;
}

// The engines

char *read_memory(ngx_conf_t *cf, StoreOptions &options) { return read_size(cf, options.memory); }

char *read_urls(ngx_conf_t *cf, StoreOptions &options)
{
    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        if (arguments(cf)[i].len == 0) {
            return refuse(cf, i, "a URL is needed, such as redis://127.0.0.1:6379/0");
        }

        if (append(options.urls, arguments(cf)[i]) != NGX_CONF_OK) {
            return failed();
        }
    }

    return NGX_CONF_OK;
}

char *read_topology(ngx_conf_t *cf, StoreOptions &options)
{
    std::string_view word = view(arguments(cf)[1]);
    bool sentinel = word == "sentinel";

    if (word != "standalone" && word != "cluster" && !sentinel) {
        return refuse(cf, 1, "\"standalone\", \"sentinel MASTER\" or \"cluster\" is needed");
    }

    if (sentinel != (cf->args->nelts == 3) || (sentinel && arguments(cf)[2].len == 0)) {
        return refuse(cf, 1,
                      sentinel ? "the name of the master is needed behind it"
                               : "nothing is needed behind it");
    }

    if (sentinel) {
        options.topology = RedisTopology::sentinel;
        options.master = arguments(cf)[2];
    } else if (word == "cluster") {
        options.topology = RedisTopology::cluster;
    }

    return NGX_CONF_OK;
}

// Credentials

char *read_user(ngx_conf_t *cf, StoreOptions &options)
{
    return read_text(cf, options.user, "the name of a user is needed");
}

char *refuse_second_password(ngx_conf_t *cf, StoreOptions &options)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "store \"%V\" has both \"password\" and \"password_file\": one is needed",
                       &options.name);
    return failed();
}

// A password is never repeated in an error.
char *read_password(ngx_conf_t *cf, StoreOptions &options)
{
    if (options.password.len > 0) {
        return refuse_second_password(cf, options);
    }

    options.password = arguments(cf)[1];

    if (options.password.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid value in \"password\": it is empty");
        return failed();
    }

    return NGX_CONF_OK;
}

// The first line of a file.
char *read_password_file(ngx_conf_t *cf, StoreOptions &options)
{
    ngx_str_t name;
    u_char room[1024];

    if (options.password.len > 0) {
        return refuse_second_password(cf, options);
    }

    if (read_path(cf, 1, name) != NGX_CONF_OK) {
        return failed();
    }

    ngx_fd_t fd = ngx_open_file(name.data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, "\"password_file\" can't open \"%V\"",
                           &name);
        return failed();
    }

    ssize_t n = ngx_read_fd(fd, room, sizeof(room));
    size_t length = 0;

    while (n > 0 && length < static_cast<size_t>(n) && room[length] != '\n' && room[length] != '\r')
    {
        length++;
    }

    (void) ngx_close_file(fd);

    if (length == 0 || length == sizeof(room)) {
        return refuse(cf, 1,
                      "a file with the password in its first line is needed, "
                      "of less than 1024 bytes");
    }

    ngx_str_t text;
    text.data = room;
    text.len = length;

    options.password.data = ngx_pstrdup(cf->pool, &text);
    options.password.len = length;
    ngx_explicit_memzero(room, sizeof(room));
    return options.password.data != nullptr ? NGX_CONF_OK : failed();
}

char *read_database(ngx_conf_t *cf, StoreOptions &options)
{
    return read_number(cf, options.database, 0, 65535, "a number from 0 to 65535 is needed");
}

// Connections

char *read_connections(ngx_conf_t *cf, StoreOptions &options)
{
    return read_number(cf, options.connections, 1, 64, "a number from 1 to 64 is needed");
}

char *read_connect_timeout(ngx_conf_t *cf, StoreOptions &options)
{
    return read_time(cf, 1, options.connect_timeout);
}

char *read_timeout(ngx_conf_t *cf, StoreOptions &options)
{
    return read_time(cf, 1, options.timeout);
}

// TLS

char *read_trusted_certificate(ngx_conf_t *cf, StoreOptions &options)
{
    return read_path(cf, 1, options.tls.trusted_certificate);
}

char *read_certificate(ngx_conf_t *cf, StoreOptions &options)
{
    return read_path(cf, 1, options.tls.certificate);
}

// nginx's `engine:...` and the like are no paths.
char *read_certificate_key(ngx_conf_t *cf, StoreOptions &options)
{
    return read_path(cf, 1, options.tls.certificate_key);
}

char *read_tls_name(ngx_conf_t *cf, StoreOptions &options)
{
    return read_text(cf, options.tls.name, "the name in the server's certificate is needed");
}

char *read_verify(ngx_conf_t *cf, StoreOptions &options)
{
    std::string_view word = view(arguments(cf)[1]);

    options.tls.verify = word == "on";

    return word == "on" || word == "off" ? NGX_CONF_OK
                                         : refuse(cf, 1, "\"on\" or \"off\" is needed");
}

char *read_protocols(ngx_conf_t *cf, StoreOptions &options)
{
    static constexpr struct {
        std::string_view name;
        ngx_uint_t bit;
    } protocols[] = {
        {"TLSv1", NGX_SSL_TLSv1},
        {"TLSv1.1", NGX_SSL_TLSv1_1},
        {"TLSv1.2", NGX_SSL_TLSv1_2},
        {"TLSv1.3", NGX_SSL_TLSv1_3},
    };

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        ngx_uint_t bit = 0;

        for (const auto &protocol : protocols) {
            if (view(arguments(cf)[i]) == protocol.name) {
                bit = protocol.bit;
            }
        }

        if (bit == 0) {
            return refuse(cf, i,
                          "of \"TLSv1\", \"TLSv1.1\", \"TLSv1.2\" and \"TLSv1.3\" "
                          "one or several are needed");
        }

        options.tls.protocols |= bit;
    }

    return NGX_CONF_OK;
}

// What is kept, and how

char *read_prefix(ngx_conf_t *cf, StoreOptions &options)
{
    options.prefix = arguments(cf)[1];

    return options.prefix.len > 0 && options.prefix.len <= 128
               ? NGX_CONF_OK
               : refuse(cf, 1, "1 to 128 characters are needed");
}

char *read_wait_replicas(ngx_conf_t *cf, StoreOptions &options)
{
    if (view(arguments(cf)[1]) == "off" && cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (cf->args->nelts != 3) {
        return refuse(cf, 1, "a number of replicas and a time are needed, such as \"1 100ms\"");
    }

    char *result = read_number(cf, options.replicas, 1, 64, "a number from 1 to 64 is needed");

    return result == NGX_CONF_OK ? read_time(cf, 2, options.replica_wait) : result;
}

char *read_near_cache(ngx_conf_t *cf, StoreOptions &options)
{
    return view(arguments(cf)[1]) == "off" ? NGX_CONF_OK : read_size(cf, options.near_cache);
}

// `off` beside files stays what it is: it is their neighbour while a store that
// has not sealed begins to, or the other way round.
char *read_encryption_keys(ngx_conf_t *cf, StoreOptions &options)
{
    if (view(arguments(cf)[1]) == "off" && cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        ngx_str_t key = arguments(cf)[i];

        if ((view(key) != "off" && read_path(cf, i, key) != NGX_CONF_OK)
            || append(options.encryption_keys, key) != NGX_CONF_OK)
        {
            return failed();
        }
    }

    return NGX_CONF_OK;
}

enum class Of { any, redis, tls };

struct StoreDirective {
    const char *name;
    ngx_uint_t most;  // arguments; one is needed
    Of of;
    char *(*read)(ngx_conf_t *cf, StoreOptions &options);
};

constexpr StoreDirective kStoreDirectives[] = {
    {"memory", 1, Of::any, read_memory},
    {"redis", NGX_CONF_MAX_ARGS, Of::any, read_urls},
    {"topology", 2, Of::redis, read_topology},
    {"user", 1, Of::redis, read_user},
    {"password", 1, Of::redis, read_password},
    {"password_file", 1, Of::redis, read_password_file},
    {"database", 1, Of::redis, read_database},
    {"connections", 1, Of::redis, read_connections},
    {"connect_timeout", 1, Of::redis, read_connect_timeout},
    {"timeout", 1, Of::redis, read_timeout},
    {"ssl_trusted_certificate", 1, Of::tls, read_trusted_certificate},
    {"ssl_certificate", 1, Of::tls, read_certificate},
    {"ssl_certificate_key", 1, Of::tls, read_certificate_key},
    {"ssl_name", 1, Of::tls, read_tls_name},
    {"ssl_verify", 1, Of::tls, read_verify},
    {"ssl_protocols", NGX_CONF_MAX_ARGS, Of::tls, read_protocols},
    {"prefix", 1, Of::redis, read_prefix},
    {"wait_replicas", 2, Of::redis, read_wait_replicas},
    {"near_cache", 1, Of::redis, read_near_cache},
    {"encryption_key_file", NGX_CONF_MAX_ARGS, Of::redis, read_encryption_keys},
};

constexpr std::size_t kStoreDirectiveCount = sizeof(kStoreDirectives) / sizeof(kStoreDirectives[0]);

static_assert(kStoreDirectiveCount <= 32, "StoreOptions::seen has a bit for each");

char *read_known(ngx_conf_t *cf, StoreOptions &options, std::size_t number)
{
    const StoreDirective &directive = kStoreDirectives[number];
    ngx_str_t *value = arguments(cf);

    if (cf->args->nelts < 2 || cf->args->nelts - 1 > directive.most) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid number of arguments in \"%V\" of store \"%V\"", &value[0],
                           &options.name);
        return failed();
    }

    if ((options.seen >> number & 1) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "duplicate directive \"%V\" in store \"%V\"",
                           &value[0], &options.name);
        return failed();
    }

    options.seen |= 1u << number;

    if (directive.of != Of::any) {
        options.redis_only = directive.name;
    }

    if (directive.of == Of::tls) {
        options.tls_only = directive.name;
    }

    return directive.read(cf, options);
}

}  // namespace

char *read_store_directive(ngx_conf_t *cf, StoreOptions &options)
{
    for (std::size_t i = 0; i < kStoreDirectiveCount; i++) {
        if (view(arguments(cf)[0]) == kStoreDirectives[i].name) {
            return read_known(cf, options, i);
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unknown directive \"%V\" in store \"%V\"",
                       &arguments(cf)[0], &options.name);
    return failed();
}

}  // namespace idempotency
