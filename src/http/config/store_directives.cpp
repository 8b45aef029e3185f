// Reads each directive of a block `idempotency_store`.

#include "http/config/arguments.h"
#include "http/config/store_options.h"
#include "nginx/secret_memory.h"
#include "nginx/zone_segment.h"

namespace idempotency {

namespace {

char *read_size(ngx_conf_t *cf, off_t &field)
{
    off_t size = ngx_parse_offset(&arguments(cf)[1]);

    if (size == NGX_ERROR || size < kSmallestSegment) {
        return reject_argument(cf, 1, "it must be a size of at least 256k, such as 64m");
    }

    field = size;
    return NGX_CONF_OK;
}

char *read_number(ngx_conf_t *cf, ngx_int_t &field, ngx_int_t minimum, ngx_int_t maximum,
                  const char *expected)
{
    field = ngx_atoi(arguments(cf)[1].data, arguments(cf)[1].len);

    return field >= minimum && field <= maximum ? NGX_CONF_OK : reject_argument(cf, 1, expected);
}

char *read_time(ngx_conf_t *cf, ngx_uint_t argument, ngx_int_t &field)
{
    field = parse_time(&arguments(cf)[argument]);

    return field != NGX_ERROR ? NGX_CONF_OK : reject_argument(cf, argument, kValidTime);
}

char *read_text(ngx_conf_t *cf, ngx_str_t &field, const char *expected)
{
    field = arguments(cf)[1];
    return field.len > 0 ? NGX_CONF_OK : reject_argument(cf, 1, expected);
}

// Reads the name of a file, which is relative to the directory of nginx.conf.  `skipped`: the
// length of what precedes it in the argument, such as "NAME=".
char *read_path(ngx_conf_t *cf, ngx_uint_t argument, ngx_str_t &field, std::size_t skipped = 0)
{
    field = to_ngx(view(arguments(cf)[argument]).substr(skipped));

    if (field.len == 0) {
        return reject_argument(cf, argument, "it must be the name of a file");
    }

    return ngx_conf_full_name(cf->cycle, &field, 1) == NGX_OK ? NGX_CONF_OK : failed();
}

// Reads a password: the first line of the file whose name read_path finds.
char *read_secret_file(ngx_conf_t *cf, ngx_uint_t argument, ngx_str_t &field,
                       std::size_t skipped = 0)
{
    ngx_str_t name;
    u_char buffer[1024];

    if (read_path(cf, argument, name, skipped) != NGX_CONF_OK) {
        return failed();
    }

    ngx_fd_t fd = ngx_open_file(name.data, NGX_FILE_RDONLY, NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_str_t label = to_ngx("password_file");

        if (skipped > 0) {
            label = to_ngx(view(arguments(cf)[argument]).substr(0, skipped - 1));
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno, "\"%V\" can't open \"%V\"", &label, &name);
        return failed();
    }

    ssize_t n = ngx_read_fd(fd, buffer, sizeof(buffer));
    size_t length = 0;

    while (n > 0 && length < static_cast<size_t>(n) && buffer[length] != '\n'
           && buffer[length] != '\r') {
        length++;
    }

    (void) ngx_close_file(fd);

    if (length == 0 || length == sizeof(buffer)) {
        ngx_explicit_memzero(buffer, sizeof(buffer));
        return reject_argument(cf, argument,
                               "the first line of the file must be the password, with less than "
                               "1024 bytes");
    }

    ngx_str_t text;
    text.data = buffer;
    text.len = length;

    field = copy_secret(cf->pool, text);
    ngx_explicit_memzero(buffer, sizeof(buffer));
    return field.data != nullptr ? NGX_CONF_OK : failed();
}

char *append_text(ngx_array_t &array, const ngx_str_t &text)
{
    auto *item = static_cast<ngx_str_t *>(ngx_array_push(&array));

    if (item == nullptr) {
        return failed();
    }

    *item = text;
    return NGX_CONF_OK;
}

// The engines

char *read_memory(ngx_conf_t *cf, StoreOptions &options) { return read_size(cf, options.memory); }

char *read_urls(ngx_conf_t *cf, StoreOptions &options)
{
    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        if (arguments(cf)[i].len == 0) {
            return reject_argument(cf, i, "it must be a URL, such as redis://127.0.0.1:6379/0");
        }

        ngx_str_t &given = arguments(cf)[i];
        ngx_str_t url = given;

        // it may have a password
        if (view(given).find('@') != std::string_view::npos) {
            url = copy_secret(cf->pool, given);
            wipe_argument(cf, given);
        }

        if (url.data == nullptr || append_text(options.urls, url) != NGX_CONF_OK) {
            return failed();
        }
    }

    return NGX_CONF_OK;
}

char *reject_sentinel_parameter(ngx_conf_t *cf, ngx_uint_t argument, const char *reason)
{
    // without its value: it may be a password
    std::string_view text = view(arguments(cf)[argument]);
    ngx_str_t name = to_ngx(text.substr(0, text.find('=')));

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid parameter \"%V\" in \"topology\": %s", &name,
                       reason);
    return failed();
}

// A parameter after the name of the master.
char *read_sentinel_parameter(ngx_conf_t *cf, StoreOptions &options, ngx_uint_t argument)
{
    constexpr std::string_view user = "sentinel_user=";
    constexpr std::string_view password_file = "sentinel_password_file=";
    constexpr char twice[] = "it must not be given twice";
    const ngx_str_t &text = arguments(cf)[argument];

    if (std::string_view name = after_prefix(text, user); !name.empty()) {
        if (options.sentinel_user.len > 0) {
            return reject_sentinel_parameter(cf, argument, twice);
        }
        options.sentinel_user = to_ngx(name);
        return NGX_CONF_OK;
    }

    if (begins_with(text, password_file)) {
        return options.sentinel_password.len > 0
                   ? reject_sentinel_parameter(cf, argument, twice)
                   : read_secret_file(cf, argument, options.sentinel_password,
                                      password_file.size());
    }

    if (equals(text, "master_ssl=on") || equals(text, "master_ssl=off")) {
        if (options.master_ssl != NGX_CONF_UNSET) {
            return reject_sentinel_parameter(cf, argument, twice);
        }
        options.master_ssl = equals(text, "master_ssl=on") ? 1 : 0;
        return NGX_CONF_OK;
    }

    return reject_sentinel_parameter(cf, argument,
                                     "after the name of the master it must be "
                                     "\"master_ssl=on\", \"master_ssl=off\", "
                                     "\"sentinel_user=NAME\" or \"sentinel_password_file=FILE\"");
}

char *read_topology(ngx_conf_t *cf, StoreOptions &options)
{
    std::string_view word = view(arguments(cf)[1]);
    bool sentinel = word == "sentinel";

    if (word != "standalone" && word != "cluster" && !sentinel) {
        return reject_argument(cf, 1,
                               "it must be \"standalone\", \"sentinel MASTER\" or \"cluster\"");
    }

    if (sentinel != (cf->args->nelts > 2) || (sentinel && arguments(cf)[2].len == 0)) {
        return reject_argument(cf, 1,
                               sentinel
                                   ? "the name of the master must follow, as in \"sentinel MASTER\""
                                   : "it must be the only parameter");
    }

    if (!sentinel) {
        options.topology = word == "cluster" ? RedisTopology::cluster : RedisTopology::standalone;
        return NGX_CONF_OK;
    }

    // Redis has names of letters, digits and ".-_"
    if (view(arguments(cf)[2]).find('=') != std::string_view::npos) {
        return reject_sentinel_parameter(cf, 2,
                                         "the name of the master must come first, as in "
                                         "\"sentinel MASTER master_ssl=on\"");
    }

    options.topology = RedisTopology::sentinel;
    options.master = arguments(cf)[2];

    for (ngx_uint_t i = 3; i < cf->args->nelts; i++) {
        if (read_sentinel_parameter(cf, options, i) != NGX_CONF_OK) {
            return failed();
        }
    }

    return NGX_CONF_OK;
}

// Credentials

char *read_user(ngx_conf_t *cf, StoreOptions &options)
{
    return read_text(cf, options.user, "it must be the name of a user");
}

char *reject_second_password(ngx_conf_t *cf, StoreOptions &options)
{
    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "store \"%V\" has both \"password\" and \"password_file\": use one of them",
                       &options.name);
    return failed();
}

// An error message never contains the password.
char *read_password(ngx_conf_t *cf, StoreOptions &options)
{
    if (options.password.len > 0) {
        return reject_second_password(cf, options);
    }

    ngx_str_t &given = arguments(cf)[1];

    if (given.len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value in \"password\": it must not be empty");
        return failed();
    }

    options.password = copy_secret(cf->pool, given);
    wipe_argument(cf, given);
    return options.password.data != nullptr ? NGX_CONF_OK : failed();
}

char *read_password_file(ngx_conf_t *cf, StoreOptions &options)
{
    return options.password.len > 0 ? reject_second_password(cf, options)
                                    : read_secret_file(cf, 1, options.password);
}

char *read_database(ngx_conf_t *cf, StoreOptions &options)
{
    return read_number(cf, options.database, 0, 65535, "it must be a number from 0 to 65535");
}

// Connections

char *read_connections(ngx_conf_t *cf, StoreOptions &options)
{
    return read_number(cf, options.connections, 1, 64, "it must be a number from 1 to 64");
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

// `engine:...` and similar values of nginx's ssl_certificate_key are not supported.
char *read_certificate_key(ngx_conf_t *cf, StoreOptions &options)
{
    return read_path(cf, 1, options.tls.certificate_key);
}

char *read_tls_name(ngx_conf_t *cf, StoreOptions &options)
{
    return read_text(cf, options.tls.name, "it must be the name in the certificate of the server");
}

char *read_verify(ngx_conf_t *cf, StoreOptions &options)
{
    std::string_view word = view(arguments(cf)[1]);

    options.tls.verify = word == "on";

    return word == "on" || word == "off" ? NGX_CONF_OK
                                         : reject_argument(cf, 1, "it must be \"on\" or \"off\"");
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
            return reject_argument(cf, i,
                                   "it must be \"TLSv1\", \"TLSv1.1\", \"TLSv1.2\" or \"TLSv1.3\"");
        }

        options.tls.protocols |= bit;
    }

    return NGX_CONF_OK;
}

// Records and copies of them

char *read_prefix(ngx_conf_t *cf, StoreOptions &options)
{
    options.prefix = arguments(cf)[1];

    return options.prefix.len > 0 && options.prefix.len <= 128
               ? NGX_CONF_OK
               : reject_argument(cf, 1, "it must have 1 to 128 characters");
}

char *read_wait_replicas(ngx_conf_t *cf, StoreOptions &options)
{
    if (view(arguments(cf)[1]) == "off" && cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (cf->args->nelts != 3) {
        return reject_argument(cf, 1,
                               "it must be a number of replicas and a time, such as \"1 100ms\"");
    }

    char *result = read_number(cf, options.replicas, 1, 64, "it must be a number from 1 to 64");

    return result == NGX_CONF_OK ? read_time(cf, 2, options.replica_wait) : result;
}

char *read_near_cache(ngx_conf_t *cf, StoreOptions &options)
{
    return view(arguments(cf)[1]) == "off" ? NGX_CONF_OK : read_size(cf, options.near_cache);
}

// `off` may stand beside files: while a store without sealed records starts to seal them, or
// stops sealing them, it has both kinds of records.
char *read_encryption_keys(ngx_conf_t *cf, StoreOptions &options)
{
    if (view(arguments(cf)[1]) == "off" && cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        ngx_str_t key = arguments(cf)[i];

        if ((view(key) != "off" && read_path(cf, i, key) != NGX_CONF_OK)
            || append_text(options.encryption_keys, key) != NGX_CONF_OK)
        {
            return failed();
        }
    }

    return NGX_CONF_OK;
}

enum class ValidWith { any, redis, tls };

struct StoreDirective {
    const char *name;
    ngx_uint_t max_arguments;  // at least one is required
    ValidWith valid_with;
    char *(*read)(ngx_conf_t *cf, StoreOptions &options);
};

constexpr StoreDirective kStoreDirectives[] = {
    {"memory", 1, ValidWith::any, read_memory},
    {"redis", NGX_CONF_MAX_ARGS, ValidWith::any, read_urls},
    {"topology", 5, ValidWith::redis, read_topology},
    {"user", 1, ValidWith::redis, read_user},
    {"password", 1, ValidWith::redis, read_password},
    {"password_file", 1, ValidWith::redis, read_password_file},
    {"database", 1, ValidWith::redis, read_database},
    {"connections", 1, ValidWith::redis, read_connections},
    {"connect_timeout", 1, ValidWith::redis, read_connect_timeout},
    {"timeout", 1, ValidWith::redis, read_timeout},
    {"ssl_trusted_certificate", 1, ValidWith::tls, read_trusted_certificate},
    {"ssl_certificate", 1, ValidWith::tls, read_certificate},
    {"ssl_certificate_key", 1, ValidWith::tls, read_certificate_key},
    {"ssl_name", 1, ValidWith::tls, read_tls_name},
    {"ssl_verify", 1, ValidWith::tls, read_verify},
    {"ssl_protocols", NGX_CONF_MAX_ARGS, ValidWith::tls, read_protocols},
    {"prefix", 1, ValidWith::redis, read_prefix},
    {"wait_replicas", 2, ValidWith::redis, read_wait_replicas},
    {"near_cache", 1, ValidWith::redis, read_near_cache},
    {"encryption_key_file", NGX_CONF_MAX_ARGS, ValidWith::redis, read_encryption_keys},
};

constexpr std::size_t kStoreDirectiveCount = sizeof(kStoreDirectives) / sizeof(kStoreDirectives[0]);

static_assert(kStoreDirectiveCount <= 32, "StoreOptions::seen has a bit for each");

char *read_known_directive(ngx_conf_t *cf, StoreOptions &options, std::size_t number)
{
    const StoreDirective &directive = kStoreDirectives[number];
    ngx_str_t *value = arguments(cf);

    if (cf->args->nelts < 2 || cf->args->nelts - 1 > directive.max_arguments) {
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

    if (directive.valid_with != ValidWith::any) {
        options.redis_only = directive.name;
    }

    if (directive.valid_with == ValidWith::tls) {
        options.tls_only = directive.name;
    }

    return directive.read(cf, options);
}

}  // namespace

char *read_store_directive(ngx_conf_t *cf, StoreOptions &options)
{
    for (std::size_t i = 0; i < kStoreDirectiveCount; i++) {
        if (view(arguments(cf)[0]) == kStoreDirectives[i].name) {
            return read_known_directive(cf, options, i);
        }
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "unknown directive \"%V\" in store \"%V\"",
                       &arguments(cf)[0], &options.name);
    return failed();
}

}  // namespace idempotency
