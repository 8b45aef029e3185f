// `topology`: how the URLs of `redis` are read, and what the sentinels need.

#include "http/config/redis_directives.h"
#include "http/config/secret_file.h"
#include "http/config/store_arguments.h"

namespace idempotency {

namespace {

char *reject_parameter(ngx_conf_t *cf, ngx_uint_t argument, const char *reason)
{
    // without its value: it may be a password
    std::string_view text = view(arguments(cf)[argument]);
    ngx_str_t name = to_ngx(text.substr(0, text.find('=')));

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "invalid parameter \"%V\" in \"topology\": %s", &name,
                       reason);
    return failed();
}

char *read_master_ssl(ngx_conf_t *cf, StoreOptions &options, ngx_uint_t argument,
                      std::string_view value)
{
    if (options.master_ssl != NGX_CONF_UNSET) {
        return reject_parameter(cf, argument, kGivenTwice);
    }

    options.master_ssl = value == "on" ? 1 : 0;

    return value == "on" || value == "off"
               ? ok()
               : reject_argument(cf, argument,
                                 "it must be \"master_ssl=on\" or \"master_ssl=off\"");
}

char *read_sentinel_user(ngx_conf_t *cf, StoreOptions &options, ngx_uint_t argument,
                         std::string_view value)
{
    if (options.sentinel_user.len > 0) {
        return reject_parameter(cf, argument, kGivenTwice);
    }

    options.sentinel_user = to_ngx(value);

    return !value.empty() ? ok()
                          : reject_parameter(cf, argument,
                                             "the name of a user must follow, as in "
                                             "\"sentinel_user=nginx\"");
}

char *read_sentinel_password(ngx_conf_t *cf, StoreOptions &options, ngx_uint_t argument,
                             std::string_view value)
{
    ngx_str_t directive = ngx_string("sentinel_password_file");
    ngx_str_t path = to_ngx(value);

    if (options.sentinel_password.len > 0) {
        return reject_parameter(cf, argument, kGivenTwice);
    }

    if (path.len == 0) {
        return reject_parameter(cf, argument,
                                "the name of a file must follow, as in "
                                "\"sentinel_password_file=sentinel.password\"");
    }

    return resolve_path(cf, path) == ok()
               ? read_password_of_file(cf, directive, path, options.sentinel_password)
               : failed();
}

constexpr struct {
    std::string_view prefix;
    char *(*read)(ngx_conf_t *cf, StoreOptions &options, ngx_uint_t argument,
                  std::string_view value);
} kSentinelParameters[] = {
    {"master_ssl=", read_master_ssl},
    {"sentinel_user=", read_sentinel_user},
    {"sentinel_password_file=", read_sentinel_password},
};

// A parameter after the name of the master.
char *read_sentinel_parameter(ngx_conf_t *cf, StoreOptions &options, ngx_uint_t argument)
{
    const ngx_str_t &text = arguments(cf)[argument];

    for (const auto &parameter : kSentinelParameters) {
        if (begins_with(text, parameter.prefix)) {
            return parameter.read(cf, options, argument, after_prefix(text, parameter.prefix));
        }
    }

    return reject_parameter(cf, argument,
                            "after the name of the master it must be "
                            "\"master_ssl=on\", \"master_ssl=off\", "
                            "\"sentinel_user=NAME\" or \"sentinel_password_file=FILE\"");
}

}  // namespace

char *read_topology(ngx_conf_t *cf, StoreOptions &options)
{
    std::string_view word = view(arguments(cf)[1]);
    bool sentinel = word == "sentinel";

    if (word != "standalone" && word != "cluster" && !sentinel) {
        return reject_argument(cf, 1,
                               "it must be \"standalone\", \"sentinel MASTER\" or \"cluster\"");
    }

    if (!sentinel) {
        if (cf->args->nelts > 2) {
            return reject_parameter(cf, 2,
                                    "parameters are only valid with \"topology sentinel MASTER\"");
        }

        options.topology = word == "cluster" ? RedisTopology::cluster : RedisTopology::standalone;
        return ok();
    }

    if (cf->args->nelts == 2 || arguments(cf)[2].len == 0) {
        return reject_argument(cf, 1,
                               "the name of the master must follow, as in \"sentinel MASTER\"");
    }

    // Redis has names of letters, digits and ".-_"
    if (view(arguments(cf)[2]).find('=') != std::string_view::npos) {
        return reject_parameter(cf, 2,
                                "the name of the master must come first, as in "
                                "\"sentinel MASTER master_ssl=on\"");
    }

    options.topology = RedisTopology::sentinel;
    options.master = arguments(cf)[2];

    for (ngx_uint_t i = 3; i < cf->args->nelts; i++) {
        if (read_sentinel_parameter(cf, options, i) != ok()) {
            return failed();
        }
    }

    return ok();
}

}  // namespace idempotency
