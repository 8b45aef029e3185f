// The directives that decide which requests are covered, and by which key.

#include "core/token.h"
#include "http/config/arguments.h"
#include "http/config/directives.h"

namespace idempotency {

namespace {

// Whether the value is `$http_NAME` alone.  Then the headers of the request are read
// directly, so that they can be counted.
bool is_header_variable(const ngx_str_t &value, ngx_str_t &name)
{
    std::string_view text = view(value);

    if (text.substr(0, 2) == "${" && text.back() == '}') {
        text = text.substr(2, text.size() - 3);
    } else if (text.substr(0, 1) == "$") {
        text.remove_prefix(1);
    } else {
        return false;
    }

    constexpr std::string_view prefix = "http_";

    if (text.substr(0, prefix.size()) != prefix || text.size() == prefix.size()) {
        return false;
    }

    text.remove_prefix(prefix.size());

    for (char c : text) {
        if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && c != '_') {
            return false;
        }
    }

    name.data = reinterpret_cast<u_char *>(const_cast<char *>(text.data()));
    name.len = text.size();
    return true;
}

// Whether nginx accepts this method in a request line (ngx_http_parse_request_line).
bool is_method(const ngx_str_t &text)
{
    for (size_t i = 0; i < text.len; i++) {
        u_char c = text.data[i];

        if ((c < 'A' || c > 'Z') && c != '_' && c != '-') {
            return false;
        }
    }

    return text.len > 0;
}

// Words that are no methods, but look as if they covered all methods.
bool means_all_methods(const ngx_str_t &text)
{
    return equals(text, "*") || equal_ignoring_case(view(text), "all")
           || equal_ignoring_case(view(text), "any");
}

constexpr Choice kMethods[] = {
    {"GET", NGX_HTTP_GET},           {"POST", NGX_HTTP_POST},
    {"PUT", NGX_HTTP_PUT},           {"DELETE", NGX_HTTP_DELETE},
    {"MKCOL", NGX_HTTP_MKCOL},       {"COPY", NGX_HTTP_COPY},
    {"MOVE", NGX_HTTP_MOVE},         {"OPTIONS", NGX_HTTP_OPTIONS},
    {"PROPFIND", NGX_HTTP_PROPFIND}, {"PROPPATCH", NGX_HTTP_PROPPATCH},
    {"LOCK", NGX_HTTP_LOCK},         {"UNLOCK", NGX_HTTP_UNLOCK},
    {"PATCH", NGX_HTTP_PATCH},
};

}  // namespace

char *set_bypass(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    ngx_str_t *value = arguments(cf);

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        if (ngx_http_script_variables_count(&value[i]) > 0) {
            continue;
        }

        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           value[i].len == 0 || equals(value[i], "0")
                               ? "\"%V\" in \"idempotency_bypass\" is a constant that never "
                                 "applies: it must be a value with a variable, such as $arg_nocache"
                               : "\"%V\" in \"idempotency_bypass\" is a constant: no request is "
                                 "covered; write \"idempotency off\", or a value with a variable, "
                                 "such as $arg_nocache",
                           &value[i]);
    }

    return ngx_http_set_predicate_slot(cf, cmd, data);
}

char *set_store(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->store_name.data != nullptr) {
        return duplicate();
    }

    conf->required = 0;
    conf->observe = 0;

    for (ngx_uint_t i = 2; i < cf->args->nelts; i++) {
        bool is_required = equals(value[i], "required");

        if (equals(value[1], "off")) {
            return reject_argument(cf, i, "\"off\" must be the only parameter");
        }

        if (!is_required && !equals(value[i], "observe")) {
            return reject_argument(
                cf, i, "a parameter after the store must be \"required\" or \"observe\"");
        }

        ngx_flag_t &flag = is_required ? conf->required : conf->observe;

        if (flag != 0) {
            return reject_argument(cf, i, kGivenTwice);
        }

        flag = 1;
    }

    conf->store_name = value[1];
    conf->store_line = cf->conf_file->line;

    if (equals(value[1], "off")) {
        conf->store_name.len = 0;

    } else if (value[1].len == 0) {
        return reject_argument(cf, 1, "it must be the name of a store or \"off\"");
    }

    return ok();
}

char *set_key(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->key != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    conf->key = allocate<KeySource>(cf->pool);

    if (conf->key == nullptr) {
        return failed();
    }

    ngx_str_t name;

    if (is_header_variable(value[1], name)) {
        conf->key->header.data = ngx_pstrdup(cf->pool, &name);
        conf->key->header.len = name.len;

        if (conf->key->header.data == nullptr) {
            return failed();
        }

        for (size_t i = 0; i < name.len; i++) {
            if (conf->key->header.data[i] == '_') {
                conf->key->header.data[i] = '-';
            }
        }

        return ok();
    }

    conf->key->value = compile_value(cf, &value[1]);

    if (conf->key->value != nullptr && !has_variable(*conf->key->value)) {
        return reject_argument(cf, 1,
                               "it must be a value with a variable, such as $http_idempotency_key");
    }

    return conf->key->value != nullptr ? ok() : failed();
}

char *set_methods(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->methods != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    conf->methods = allocate<MethodSet>(cf->pool);

    if (conf->methods == nullptr
        || ngx_array_init(&conf->methods->names, cf->pool, 1, sizeof(ngx_str_t)) != NGX_OK)
    {
        return failed();
    }

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        ngx_uint_t bit;

        if (means_all_methods(value[i])) {
            return reject_argument(cf, i,
                                   "it is not a method: list each method that must be covered, as "
                                   "in \"POST PUT PATCH DELETE\"");
        }

        if (!is_method(value[i])) {
            return reject_argument(cf, i,
                                   "it must be a method in capital letters, such as POST; several "
                                   "methods are separated by spaces");
        }

        if (equals(value[i], "HEAD") || equals(value[i], "CONNECT") || equals(value[i], "TRACE")) {
            ngx_conf_log_error(
                NGX_LOG_WARN, cf, 0,
                "\"%V\" in \"%V\" has no effect: responses to this method are never kept",
                &value[i], &value[0]);
            continue;
        }

        if (choose(value[i], kMethods, bit)) {
            conf->methods->bits |= bit;
            continue;
        }

        auto *name = static_cast<ngx_str_t *>(ngx_array_push(&conf->methods->names));

        if (name == nullptr) {
            return failed();
        }

        *name = value[i];
    }

    return ok();
}

char *set_scope(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);
    ngx_uint_t parts = cf->args->nelts - 1;

    if (conf->scope != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    if (parts == 1 && equals(value[1], "off")) {
        conf->scope = nullptr;
        return ok();
    }

    conf->scope = create_scope(cf->pool);

    if (conf->scope == nullptr) {
        return failed();
    }

    if (equals(value[parts], "any")) {
        conf->scope->any = true;
        parts--;
    }

    if (parts == 0) {
        return reject_argument(
            cf, 1, "it must follow one or more values, as in \"$remote_user $http_x_api_key any\"");
    }

    if (parts > kMaxScopeParts) {
        return reject_argument(cf, kMaxScopeParts + 1, "there must be at most 255 values");
    }

    for (ngx_uint_t i = 1; i <= parts; i++) {
        if (equals(value[i], "off")) {
            return reject_argument(cf, i, "it must be the only parameter");
        }

        if (equals(value[i], "any")) {
            return reject_argument(cf, i, "it must be the last parameter, and stand there once");
        }

        ngx_http_complex_value_t *part = compile_value(cf, &value[i]);

        if (part != nullptr && !has_variable(*part)) {
            return reject_argument(
                cf, i,
                "it must be a value with a variable, such as $http_x_api_key, or \"off\" alone");
        }

        if (!add_scope_part(*conf->scope, part)) {
            return failed();
        }
    }

    return ok();
}

char *set_fingerprint(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->fingerprint != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    if (begins_with(value[1], "body=") || begins_with(value[1], "except=")) {
        return reject_argument(
            cf, 1, "a value such as \"$request_method $host$request_uri\" must stand before it");
    }

    for (ngx_uint_t i = 2; i < cf->args->nelts; i++) {
        if (begins_with(value[i], "except=")) {
            return reject_argument(cf, i, "this version does not support \"except\": remove it");
        }

        if (equals(value[i], "body=json") || equals(value[i], "body=form")) {
            return reject_argument(
                cf, i, "this version does not support it: it must be \"body=on\" or \"body=off\"");
        }

        if (!equals(value[i], "body=on") && !equals(value[i], "body=off")) {
            return reject_argument(cf, i,
                                   "after the value it must be \"body=on\" or \"body=off\"; a "
                                   "value with spaces must be in quotes");
        }

        if (i > 2) {
            return reject_argument(cf, i, kGivenTwice);
        }
    }

    conf->fingerprint_body = cf->args->nelts == 2 || equals(value[2], "body=on");
    conf->fingerprint = compile_value(cf, &value[1]);
    return conf->fingerprint != nullptr ? ok() : failed();
}

}  // namespace idempotency
