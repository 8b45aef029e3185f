// The directives of a location: each reads its own values.

#include "core/token.h"
#include "http/arguments.h"
#include "http/steps.h"

namespace idempotency {

namespace {

char *ok() { return NGX_CONF_OK; }
char *duplicate() { return const_cast<char *>("is duplicate"); }

bool equals(const ngx_str_t &text, const char *word) { return view(text) == word; }

// A word and the value that stands for it.
struct Choice {
    const char *word;
    ngx_uint_t value;
};

template <std::size_t N>
bool choose(const ngx_str_t &text, const Choice (&choices)[N], ngx_uint_t &out)
{
    for (const Choice &choice : choices) {
        if (equals(text, choice.word)) {
            out = choice.value;
            return true;
        }
    }

    return false;
}

char *set_store(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->store_name.data != nullptr) {
        return duplicate();
    }

    if (cf->args->nelts == 3 && (!equals(value[2], "required") || equals(value[1], "off"))) {
        return refuse(cf, 2, equals(value[1], "off") ? "nothing can follow \"off\""
                                                     : "only \"required\" can follow the store");
    }

    conf->store_name = value[1];
    conf->store_line = cf->conf_file->line;
    conf->required = cf->args->nelts == 3;

    if (equals(value[1], "off")) {
        conf->store_name.len = 0;

    } else if (value[1].len == 0) {
        return refuse(cf, 1, "the name of a store or \"off\" is needed");
    }

    return ok();
}

// `$http_NAME` alone: the field itself can be looked at, and counted.
bool names_a_header(const ngx_str_t &value, ngx_str_t &name)
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

ngx_http_complex_value_t *compile_argument(ngx_conf_t *cf, ngx_str_t *text)
{
    auto *value = allocate<ngx_http_complex_value_t>(cf->pool);
    ngx_http_compile_complex_value_t compiler;

    ngx_memzero(&compiler, sizeof(compiler));
    compiler.cf = cf;
    compiler.value = text;
    compiler.complex_value = value;

    return value != nullptr && ngx_http_compile_complex_value(&compiler) == NGX_OK ? value
                                                                                 : nullptr;
}

char *set_key(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->key != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    if (value[1].len == 0) {
        return refuse(cf, 1, "a value with a variable is needed, such as $http_idempotency_key");
    }

    conf->key = allocate<KeySource>(cf->pool);

    if (conf->key == nullptr) {
        return failed();
    }

    ngx_str_t name;

    if (names_a_header(value[1], name)) {
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

    conf->key->value = compile_argument(cf, &value[1]);
    return conf->key->value != nullptr ? ok() : failed();
}

// What nginx's parser lets through as a method.
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

constexpr Choice kMethods[] = {
    {"GET", NGX_HTTP_GET},             {"POST", NGX_HTTP_POST},
    {"PUT", NGX_HTTP_PUT},             {"DELETE", NGX_HTTP_DELETE},
    {"MKCOL", NGX_HTTP_MKCOL},         {"COPY", NGX_HTTP_COPY},
    {"MOVE", NGX_HTTP_MOVE},           {"OPTIONS", NGX_HTTP_OPTIONS},
    {"PROPFIND", NGX_HTTP_PROPFIND},   {"PROPPATCH", NGX_HTTP_PROPPATCH},
    {"LOCK", NGX_HTTP_LOCK},           {"UNLOCK", NGX_HTTP_UNLOCK},
    {"PATCH", NGX_HTTP_PATCH},
};

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

        if (!is_method(value[i])) {
            return refuse(cf, i, "unknown method: a name in capital letters is needed, such as POST");
        }

        if (equals(value[i], "HEAD") || equals(value[i], "CONNECT") || equals(value[i], "TRACE")) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "\"%V\" in \"%V\" is without effect: answers to it are never kept",
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

    if (conf->scope != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    if (equals(value[1], "off")) {
        conf->scope = nullptr;
        return ok();
    }

    if (value[1].len == 0) {
        return refuse(cf, 1, "a value such as $http_x_api_key, or \"off\" is needed");
    }

    conf->scope = compile_argument(cf, &value[1]);
    return conf->scope != nullptr ? ok() : failed();
}

char *set_fingerprint(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->fingerprint != NGX_CONF_UNSET_PTR) {
        return duplicate();
    }

    conf->fingerprint_body = 1;

    if (cf->args->nelts == 3) {
        if (equals(value[2], "body=off")) {
            conf->fingerprint_body = 0;

        } else if (!equals(value[2], "body=on")) {
            return refuse(cf, 2, "\"body=on\" or \"body=off\" is needed");
        }
    }

    conf->fingerprint = compile_argument(cf, &value[1]);
    return conf->fingerprint != nullptr ? ok() : failed();
}

constexpr char kTimeNeeded[] = "a time above 0 is needed, such as 30s or 24h";

char *set_time(ngx_conf_t *cf, ngx_command_t *cmd, void *data)
{
    auto *field = reinterpret_cast<ngx_msec_t *>(static_cast<char *>(data) + cmd->offset);

    if (*field != NGX_CONF_UNSET_MSEC) {
        return duplicate();
    }

    ngx_int_t time = parse_time(&arguments(cf)[1]);

    if (time == NGX_ERROR) {
        return refuse(cf, 1, kTimeNeeded);
    }

    *field = static_cast<ngx_msec_t>(time);
    return ok();
}

char *set_conflict(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);
    constexpr char expected[] = "\"reject\" or \"wait TIME\" is needed, such as \"wait 10s\"";

    if (conf->conflict != NGX_CONF_UNSET_UINT) {
        return duplicate();
    }

    if (equals(value[1], "reject") && cf->args->nelts == 2) {
        conf->conflict = static_cast<ngx_uint_t>(Conflict::reject);
        return ok();
    }

    if (!equals(value[1], "wait") || cf->args->nelts != 3) {
        return refuse(cf, equals(value[1], "reject") ? 2 : 1, expected);
    }

    ngx_int_t time = parse_time(&value[2]);

    if (time == NGX_ERROR) {
        return refuse(cf, 2, kTimeNeeded);
    }

    conf->conflict = static_cast<ngx_uint_t>(Conflict::wait);
    conf->conflict_wait = static_cast<ngx_msec_t>(time);
    return ok();
}

constexpr Choice kUnknownPolicies[] = {
    {"hold", static_cast<ngx_uint_t>(UnknownPolicy::hold)},
    {"release", static_cast<ngx_uint_t>(UnknownPolicy::release)},
    {"store", static_cast<ngx_uint_t>(UnknownPolicy::store)},
};

constexpr Choice kStoreErrors[] = {
    {"reject", static_cast<ngx_uint_t>(StoreError::reject)},
    {"pass", static_cast<ngx_uint_t>(StoreError::pass)},
};

template <std::size_t N>
char *set_choice(ngx_conf_t *cf, const Choice (&choices)[N], ngx_uint_t &field,
                 const char *expected)
{
    if (field != NGX_CONF_UNSET_UINT) {
        return duplicate();
    }

    return choose(arguments(cf)[1], choices, field) ? ok() : refuse(cf, 1, expected);
}

char *set_unknown(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    return set_choice(cf, kUnknownPolicies, static_cast<LocationConfig *>(data)->unknown,
                      "\"hold\", \"release\" or \"store\" is needed");
}

char *set_store_error(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    return set_choice(cf, kStoreErrors, static_cast<LocationConfig *>(data)->store_error,
                      "\"reject\" or \"pass\" is needed");
}

// `503`, or a class such as `5xx`.
bool add_statuses(const ngx_str_t &text, StatusSet &set)
{
    if (text.len != 3) {
        return false;
    }

    if (text.data[1] == 'x' && text.data[2] == 'x') {
        if (text.data[0] < '2' || text.data[0] > '5') {
            return false;
        }

        for (ngx_uint_t i = 0; i < 100; i++) {
            set.add((text.data[0] - '0') * 100u + i);
        }
        return true;
    }

    ngx_int_t status = ngx_atoi(text.data, text.len);

    if (status < 200 || status > 599) {
        return false;
    }

    set.add(static_cast<ngx_uint_t>(status));
    return true;
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
        if (!add_statuses(value[i], *conf->retriable)) {
            return refuse(cf, i, "status codes from 200 to 599, classes such as 5xx, "
                                 "or \"none\" alone are needed");
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

    ssize_t size = ngx_parse_size(&arguments(cf)[1]);

    // a record tells a body's length in 32 bits, and Redis takes 512 MB
    if (size == NGX_ERROR || size > 256 * 1024 * 1024) {
        return refuse(cf, 1, "a size up to 256m is needed, such as 1m");
    }

    conf->max_body = static_cast<size_t>(size);
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
            return refuse(cf, i, "the name of a header is needed, such as Set-Cookie");
        }

        auto *name = static_cast<ngx_str_t *>(ngx_array_push(conf->hidden_headers));

        if (name == nullptr) {
            return failed();
        }

        *name = value[i];
    }

    return ok();
}

char *set_replayed_header(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->replayed_header.data != nullptr) {
        return duplicate();
    }

    if (!is_token(view(value[1]))) {
        return refuse(cf, 1, "the name of a header, or \"off\" is needed");
    }

    conf->replayed_header = value[1];

    if (equals(value[1], "off")) {
        conf->replayed_header.len = 0;
    }

    return ok();
}

char *set_problem_base(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    ngx_str_t *value = arguments(cf);

    if (conf->problem_base.data != nullptr) {
        return duplicate();
    }

    // it goes into JSON and into a Link as it is
    for (size_t i = 0; i < value[1].len; i++) {
        u_char c = value[1].data[i];

        if (c <= 0x20 || c >= 0x7f || ngx_strchr("\"<>\\^`{|}", c) != nullptr) {
            return refuse(cf, 1, "a URI is needed, such as https://api.example.com/problems/");
        }
    }

    if (value[1].len == 0) {
        return refuse(cf, 1, "a URI is needed, such as https://api.example.com/problems/");
    }

    conf->problem_base = value[1];
    return ok();
}

constexpr Choice kStatusFormats[] = {
    {"json", static_cast<ngx_uint_t>(StatusFormat::json)},
    {"prometheus", static_cast<ngx_uint_t>(StatusFormat::prometheus)},
    {"html", static_cast<ngx_uint_t>(StatusFormat::html)},
};

char *set_status_page(ngx_conf_t *cf, ngx_command_t *, void *data)
{
    auto *conf = static_cast<LocationConfig *>(data);
    auto *core = static_cast<ngx_http_core_loc_conf_t *>(
        ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module));

    core->handler = tell_status;

    if (cf->args->nelts == 1) {
        if (conf->status_format != NGX_CONF_UNSET_UINT) {
            return duplicate();
        }

        conf->status_format = static_cast<ngx_uint_t>(StatusFormat::json);
        return ok();
    }

    return set_choice(cf, kStatusFormats, conf->status_format,
                      "\"json\", \"prometheus\" or \"html\" is needed");
}

constexpr ngx_uint_t kEverywhere = NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF;

}  // namespace

#define LOCATION_DIRECTIVE(name, arguments, setter, offset)                                      \
    {                                                                                            \
        ngx_string(name), kEverywhere | (arguments), setter, NGX_HTTP_LOC_CONF_OFFSET, offset,   \
            nullptr                                                                              \
    }

ngx_command_t directives[] = {
    {ngx_string("idempotency_store"), NGX_HTTP_MAIN_CONF | NGX_CONF_BLOCK | NGX_CONF_TAKE1,
     store_block, NGX_HTTP_MAIN_CONF_OFFSET, 0, nullptr},

    LOCATION_DIRECTIVE("idempotency", NGX_CONF_TAKE12, set_store, 0),
    LOCATION_DIRECTIVE("idempotency_key", NGX_CONF_TAKE1, set_key, 0),
    LOCATION_DIRECTIVE("idempotency_methods", NGX_CONF_1MORE, set_methods, 0),
    LOCATION_DIRECTIVE("idempotency_scope", NGX_CONF_TAKE1, set_scope, 0),
    LOCATION_DIRECTIVE("idempotency_fingerprint", NGX_CONF_TAKE12, set_fingerprint, 0),
    LOCATION_DIRECTIVE("idempotency_ttl", NGX_CONF_TAKE1, set_time, offsetof(LocationConfig, ttl)),
    LOCATION_DIRECTIVE("idempotency_lease", NGX_CONF_TAKE1, set_time,
                       offsetof(LocationConfig, lease)),
    LOCATION_DIRECTIVE("idempotency_conflict", NGX_CONF_TAKE12, set_conflict, 0),
    LOCATION_DIRECTIVE("idempotency_unknown", NGX_CONF_TAKE1, set_unknown, 0),
    LOCATION_DIRECTIVE("idempotency_retriable", NGX_CONF_1MORE, set_retriable, 0),
    LOCATION_DIRECTIVE("idempotency_max_body", NGX_CONF_TAKE1, set_max_body, 0),
    LOCATION_DIRECTIVE("idempotency_hide_header", NGX_CONF_1MORE, set_hidden_headers, 0),
    LOCATION_DIRECTIVE("idempotency_store_error", NGX_CONF_TAKE1, set_store_error, 0),
    LOCATION_DIRECTIVE("idempotency_bypass", NGX_CONF_1MORE, ngx_http_set_predicate_slot,
                       offsetof(LocationConfig, bypass)),
    LOCATION_DIRECTIVE("idempotency_replayed_header", NGX_CONF_TAKE1, set_replayed_header, 0),
    LOCATION_DIRECTIVE("idempotency_problem_base", NGX_CONF_TAKE1, set_problem_base, 0),

    {ngx_string("idempotency_status"), NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS | NGX_CONF_TAKE1,
     set_status_page, NGX_HTTP_LOC_CONF_OFFSET, 0, nullptr},

    ngx_null_command,
};

}  // namespace idempotency
