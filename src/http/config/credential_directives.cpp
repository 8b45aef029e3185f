// User and password of Redis.

#include "http/config/redis_directives.h"
#include "http/config/secret_file.h"
#include "http/config/store_arguments.h"
#include "nginx/secret_memory.h"

namespace idempotency {

namespace {

char *reject_second_password(ngx_conf_t *cf, StoreOptions &options)
{
    ngx_conf_log_error(
        NGX_LOG_EMERG, cf, 0,
        "store \"%V\" has both \"password\" and \"password_file\": remove one of them",
        &options.name);
    return failed();
}

}  // namespace

char *read_user(ngx_conf_t *cf, StoreOptions &options)
{
    return read_text(cf, options.user, "it must be the name of a user");
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

    options.password_directive = "password";
    options.password = copy_secret(cf->pool, given);
    wipe_argument(cf, given);
    return options.password.data != nullptr ? NGX_CONF_OK : failed();
}

char *read_password_file(ngx_conf_t *cf, StoreOptions &options)
{
    ngx_str_t path;

    if (options.password.len > 0) {
        return reject_second_password(cf, options);
    }

    options.password_directive = "password_file";

    return read_path(cf, 1, path) == ok()
               ? read_password_of_file(cf, arguments(cf)[0], path, options.password)
               : failed();
}

}  // namespace idempotency
