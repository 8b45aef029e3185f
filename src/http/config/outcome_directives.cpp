// The directives that decide what becomes of a claim and of a response, and for how long.

#include "core/token.h"
#include "http/config/arguments.h"
#include "http/config/directives.h"

namespace idempotency {

namespace {

constexpr Choice kUnknownPolicies[] = {
    {"hold", static_cast<ngx_uint_t>(UnknownPolicy::hold)},
    {"release", static_cast<ngx_uint_t>(UnknownPolicy::release)},
    {"store", static_cast<ngx_uint_t>(UnknownPolicy::store)},
};

constexpr Choice kStoreErrors[] = {
    {"reject", static_cast<ngx_uint_t>(StoreError::reject)},
    {"pass", static_cast<ngx_uint_t>(StoreError::pass)},
};

// Reads `503`, or a class such as `5xx`.  False if the text is invalid.
bool parse_statuses(const ngx_str_t &text, ngx_uint_t &first, ngx_uint_t &last)
{
    if (text.len != 3) {
        return false;
    }

    if (text.data[1] == 'x' && text.data[2] == 'x') {
        first = (text.data[0] - '0') * 100u;
        last = first + 99;
        return text.data[0] >= '2' && text.data[0] <= '5';
    }

    ngx_int_t status = ngx_atoi(text.data, text.len);

    first = last = static_cast<ngx_uint_t>(status);
    return status >= 200 && status <= 599;
}

bool add_statuses(const ngx_str_t &text, StatusSet &set)
{
    ngx_uint_t first, last;

    if (!parse_statuses(text, first, last)) {
        return false;
    }

    for (ngx_uint_t status = first; status <= last; status++) {
        set.add(status);
    }

    return true;
}

// False if the text is no name of a gRPC status that means an error.
bool add_grpc_status(const ngx_str_t &text, StatusSet &set)
{
    int status = grpc_status_of_name(view(text));

    if (status <= 0) {
        return false;
    }

    set.add_grpc(status);
    return true;
}

bool is_media_type(std::string_view text)
{
    std::size_t slash = text.find('/');

    // `*` is valid in a token, but types are compared as a whole: it would match nothing
    return slash != std::string_view::npos && text.find('*') == std::string_view::npos
           && is_token(text.substr(0, slash)) && is_token(text.substr(slash + 1));
}

// Reads `CODE=TIME`.
char *add_ttl_rule(ngx_conf_t *cf, ngx_uint_t argument, LocationConfig &conf)
{
    ngx_str_t code = arguments(cf)[argument];
    ngx_uint_t first, last;
    std::size_t equals_sign = view(code).find('=');

    if (equals_sign == std::string_view::npos) {
        return reject_argument(cf, argument, "it must be CODE=TIME, such as 404=1h or 5xx=5m");
    }

    ngx_str_t text = {code.len - equals_sign - 1, code.data + equals_sign + 1};

    code.len = equals_sign;

    if (!parse_statuses(code, first, last)) {
        return reject_argument(cf, argument,
                               "CODE must be a status code from 200 to 599, or a class such as "
                               "5xx");
    }

    ngx_int_t time = parse_time(&text);

    if (time == NGX_ERROR) {
        return reject_argument(cf, argument, kValidTimeAfterEqualsSign);
    }

    for (ngx_uint_t i = 0; i < conf.ttl_rule_count; i++) {
        if (conf.ttl_rules[i].first == first && conf.ttl_rules[i].last == last) {
            return reject_argument(cf, argument, "this CODE is given twice: remove one of them");
        }
    }

    conf.ttl_rules[conf.ttl_rule_count++] = {
        static_cast<unsigned>(first), static_cast<unsigned>(last), static_cast<Millis>(time)};
    return ok();
}

}  // namespace

char *set_time(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    auto *field = reinterpret_cast<ngx_msec_t *>(static_cast<char *>(data) + cmd->offset);

    if (*field != NGX_CONF_UNSET_MSEC) {
        return duplicate();
    }

    ngx_int_t time = parse_time(&arguments(cf)[1]);

    if (time == NGX_ERROR) {
        return reject_argument(cf, 1, kValidTime);
    }

    *field = static_cast<ngx_msec_t>(time);
    return ok();
}

char *set_ttl(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);

    if (conf->ttl != NGX_CONF_UNSET_MSEC) {
        return duplicate();
    }

    ngx_http_complex_value_t *value = compile_value(cf, &arguments(cf)[1]);

    conf->ttl_rules = allocate<TtlRule>(cf->pool, cf->args->nelts);

    if (value == nullptr || conf->ttl_rules == nullptr) {
        return failed();
    }

    if (has_variable(*value)) {
        conf->ttl = kDefaultTtl;
        conf->ttl_value = value;

    } else {
        ngx_int_t time = parse_time(&arguments(cf)[1]);

        if (time == NGX_ERROR) {
            return reject_argument(cf, 1,
                                   view(arguments(cf)[1]).find('=') != std::string_view::npos
                                       ? "a TIME for all other codes must stand before it, as in "
                                         "\"24h 404=1h\""
                                       : kValidTime);
        }

        conf->ttl = static_cast<ngx_msec_t>(time);
    }

    for (ngx_uint_t i = 2; i < cf->args->nelts; i++) {
        if (add_ttl_rule(cf, i, *conf) != ok()) {
            return failed();
        }
    }

    return ok();
}

char *set_conflict(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);
    constexpr char expected[] = "it must be \"reject\" or \"wait TIME\", such as \"wait 10s\"";

    if (conf->conflict != NGX_CONF_UNSET_UINT) {
        return duplicate();
    }

    if (equals(value[1], "reject") && cf->args->nelts == 2) {
        conf->conflict = static_cast<ngx_uint_t>(Conflict::reject);
        return ok();
    }

    if (!equals(value[1], "wait") || cf->args->nelts != 3) {
        return reject_argument(cf, equals(value[1], "reject") ? 2 : 1, expected);
    }

    ngx_int_t time = parse_time(&value[2]);

    if (time == NGX_ERROR) {
        return reject_argument(cf, 2, kValidTime);
    }

    conf->conflict = static_cast<ngx_uint_t>(Conflict::wait);
    conf->conflict_wait = static_cast<ngx_msec_t>(time);
    return ok();
}

char *set_unknown(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->unknown != NGX_CONF_UNSET_UINT) {
        return duplicate();
    }

    if (!choose(value[1], kUnknownPolicies, conf->unknown)) {
        return reject_argument(cf, 1, "it must be \"hold\", \"release\" or \"store\"");
    }

    if (cf->args->nelts == 2) {
        return ok();
    }

    if (!equals(value[1], "hold")) {
        return reject_argument(cf, 2, "a time can follow only \"hold\", as in \"hold 1h\"");
    }

    ngx_int_t time = parse_time(&value[2]);

    if (time == NGX_ERROR) {
        return reject_argument(cf, 2, kValidTime);
    }

    conf->unknown_hold = static_cast<ngx_msec_t>(time);
    return ok();
}

char *set_store_error(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    return set_choice(cf, kStoreErrors, static_cast<LocationConfig *>(data)->store_error,
                      "it must be \"reject\" or \"pass\"");
}

char *set_retriable(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->retriable != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    conf->retriable = allocate<StatusSet>(cf->pool);

    if (conf->retriable == nullptr) {
        return failed();
    }

    if (cf->args->nelts == 2 && equals(value[1], "none")) {
        return ok();
    }

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        if (!add_statuses(value[i], *conf->retriable)
            && !add_grpc_status(value[i], *conf->retriable)) {
            return reject_argument(cf, i,
                                   "it must be a status code from 200 to 599, a class such as 5xx, "
                                   "a gRPC status such as UNAVAILABLE, or \"none\" alone");
        }
    }

    return ok();
}

char *set_max_body(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);

    if (conf->max_body != NGX_CONF_UNSET_SIZE) {
        return duplicate();
    }

    off_t size = parse_size(arguments(cf)[1]);

    // a record has the length of the body in 32 bits, and Redis accepts values up to 512 MB
    if (size == NGX_ERROR || size > 256 * 1024 * 1024) {
        return reject_argument(cf, 1,
                               "it must be a size up to 256m with a unit of k, m or g, such as 1m");
    }

    conf->max_body = static_cast<size_t>(size);
    return ok();
}

char *set_stream(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);
    ngx_uint_t last = cf->args->nelts - 1;
    constexpr std::string_view after = "after=";

    if (conf->stream_types != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    if (last == 1 && equals(value[1], "off")) {
        conf->stream_types = nullptr;
        return ok();
    }

    conf->stream_types = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));

    if (conf->stream_types == nullptr) {
        return failed();
    }

    if (view(value[last]).substr(0, after.size()) == after) {
        ngx_str_t text = to_ngx(view(value[last]).substr(after.size()));
        ngx_int_t time = parse_time(&text);

        if (time == NGX_ERROR) {
            return reject_argument(cf, last, kValidTimeAfterEqualsSign);
        }

        conf->stream_after = static_cast<ngx_msec_t>(time);
        last--;
    }

    for (ngx_uint_t i = 1; i <= ngx_max(last, ngx_uint_t(1)); i++) {
        if (!is_media_type(view(value[i]))) {
            return reject_argument(
                cf, i,
                "it must be a media type such as text/event-stream, without \"*\"; "
                "\"after=TIME\" stands last, and \"off\" alone");
        }

        auto *type = static_cast<ngx_str_t *>(ngx_array_push(conf->stream_types));

        if (type == nullptr) {
            return failed();
        }

        *type = value[i];
    }

    return ok();
}

char *set_hidden_headers(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->hidden_headers == NGX_CONF_UNSET_PTR) {
        conf->hidden_headers = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));

        if (conf->hidden_headers == nullptr) {
            return failed();
        }
    }

    for (ngx_uint_t i = 1; i < cf->args->nelts; i++) {
        if (!is_token(view(value[i]))) {
            return reject_argument(cf, i, "it must be the name of a header, such as Set-Cookie");
        }

        auto *name = static_cast<ngx_str_t *>(ngx_array_push(conf->hidden_headers));

        if (name == nullptr) {
            return failed();
        }

        *name = value[i];
    }

    return ok();
}

}  // namespace idempotency
