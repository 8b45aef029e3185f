#include "http/admin/question.h"

#include <new>

#include "core/key.h"
#include "core/wire.h"
#include "nginx/list.h"

namespace idempotency {

namespace {

constexpr AdminProblem kMethod = {NGX_HTTP_NOT_ALLOWED, "method_not_allowed",
                                  "The method must be GET, HEAD, POST or DELETE."};
constexpr AdminProblem kParameter = {
    NGX_HTTP_BAD_REQUEST, "parameter_invalid",
    "An argument is not known, stands twice, has a wrong value, or does not fit the method."};
constexpr AdminProblem kStoreMissing = {NGX_HTTP_BAD_REQUEST, "store_missing",
                                        "The argument store=NAME is missing."};
constexpr AdminProblem kStoreUnknown = {NGX_HTTP_NOT_FOUND, "store_not_found",
                                        "There is no store of this name."};
constexpr AdminProblem kIdInvalid = {
    NGX_HTTP_BAD_REQUEST, "id_invalid",
    "The argument id must be the 64 hexadecimal digits of $idempotency_key_id."};
constexpr AdminProblem kKeyMissing = {
    NGX_HTTP_BAD_REQUEST, "key_missing",
    "The key is missing: give the argument id, or the request headers Idempotency-Key and "
    "Idempotency-Scope."};
constexpr AdminProblem kKeyInvalid = {
    NGX_HTTP_BAD_REQUEST, "key_invalid",
    "The request header Idempotency-Key must stand once and be a valid key."};
constexpr AdminProblem kKeyTwice = {
    NGX_HTTP_BAD_REQUEST, "key_ambiguous",
    "The key must be named either by the argument id or by the request headers, not by both."};
constexpr AdminProblem kScope = {
    NGX_HTTP_BAD_REQUEST, "scope_invalid",
    "At least one request header Idempotency-Scope must have a value, and there may be 255."};
constexpr AdminProblem kHeaderMissing = {
    NGX_HTTP_FORBIDDEN, "admin_header_missing",
    "A change needs the request header Idempotency-Admin with the value 1."};
constexpr AdminProblem kNoMemory = {NGX_HTTP_INTERNAL_SERVER_ERROR, "out_of_memory",
                                    "nginx has no memory."};

struct Arguments {
    ngx_str_t store, id, show, force, outcome, erasure;
};

bool unescape(ngx_http_request_t *r, std::string_view text, ngx_str_t &out)
{
    auto *to = static_cast<u_char *>(ngx_pnalloc(r->pool, text.size() + 1));
    auto *from = reinterpret_cast<u_char *>(const_cast<char *>(text.data()));

    if (to == nullptr) {
        return false;
    }

    out.data = to;
    ngx_unescape_uri(&to, &from, text.size(), 0);
    out.len = static_cast<size_t>(to - out.data);
    return true;
}

const AdminProblem *read_arguments(ngx_http_request_t *r, Arguments &arguments)
{
    const struct {
        std::string_view name;
        ngx_str_t &value;
    } known[] = {{"store", arguments.store},     {"id", arguments.id},
                 {"show", arguments.show},       {"force", arguments.force},
                 {"outcome", arguments.outcome}, {"erasure", arguments.erasure}};
    std::string_view rest = view(r->args);

    arguments = {};

    while (!rest.empty()) {
        std::string_view argument = rest.substr(0, rest.find('&'));
        std::string_view name = argument.substr(0, argument.find('='));
        bool is_known = false;

        rest.remove_prefix(ngx_min(argument.size() + 1, rest.size()));

        for (const auto &each : known) {
            if (name != each.name || name.size() == argument.size() || each.value.data != nullptr) {
                continue;
            }

            if (!unescape(r, argument.substr(name.size() + 1), each.value)) {
                return &kNoMemory;
            }

            is_known = true;
        }

        if (!is_known) {
            return &kParameter;
        }
    }

    return nullptr;
}

const AdminProblem *read_store(ngx_http_request_t *r, const ngx_str_t &name, StoreSlot *&slot)
{
    if (name.len == 0) {
        return &kStoreMissing;
    }

    slot = find_store(main_config(r), &name);
    return slot != nullptr ? nullptr : &kStoreUnknown;
}

bool count_scope_headers(ngx_http_request_t *r, std::size_t &count, bool &has_value)
{
    count = 0;
    has_value = false;

    for (ngx_table_elt_t &field : HeaderFields(r->headers_in.headers)) {
        if (has_name(field, "idempotency-scope")) {
            count++;
            has_value = has_value || field.value.len > 0;
        }
    }

    return count <= kMaxScopeParts;
}

// Without such a header: `idempotency_scope off`.
const AdminProblem *read_scope(ngx_http_request_t *r, Scope &scope)
{
    std::size_t count;
    bool has_value;

    if (!count_scope_headers(r, count, has_value) || (count > 0 && !has_value)) {
        return &kScope;
    }

    scope = {ScopeKind::global, nullptr, 0};

    if (count == 0) {
        return nullptr;
    }

    auto *parts =
        static_cast<std::string_view *>(ngx_palloc(r->pool, count * sizeof(std::string_view)));

    if (parts == nullptr) {
        return &kNoMemory;
    }

    for (ngx_table_elt_t &field : HeaderFields(r->headers_in.headers)) {
        if (has_name(field, "idempotency-scope")) {
            new (&parts[scope.count++]) std::string_view(view(field.value));
        }
    }

    scope.kind = ScopeKind::parts;
    scope.parts = parts;
    return nullptr;
}

// The key in the headers.  `is_given` is false without one.
const AdminProblem *read_key(ngx_http_request_t *r, const Scope &scope, KeyId &id, bool &is_given)
{
    ngx_str_t value = ngx_null_string;
    char buffer[kMaxKeyLength];

    is_given = false;

    for (ngx_table_elt_t &field : HeaderFields(r->headers_in.headers)) {
        if (!has_name(field, "idempotency-key")) {
            continue;
        }

        if (is_given) {
            return &kKeyInvalid;
        }

        is_given = true;
        value = field.value;
    }

    if (!is_given) {
        return nullptr;
    }

    ParsedKey key = parse_key(view(value), buffer);

    if (key.fault != KeyFault::none) {
        return &kKeyInvalid;
    }

    return main_config(r)->digester->key_id(scope, key.value, id) ? nullptr : &kNoMemory;
}

const AdminProblem *read_named_key(ngx_http_request_t *r, const Arguments &arguments,
                                   AdminQuestion &question)
{
    bool has_header = false;
    const AdminProblem *problem = read_scope(r, question.scope);

    if (problem == nullptr) {
        problem = read_key(r, question.scope, question.id, has_header);
    }

    if (problem != nullptr) {
        return problem;
    }

    if (arguments.id.data != nullptr) {
        question.id_is_stored = true;

        if (has_header || question.scope.count > 0) {
            return &kKeyTwice;
        }

        return parse_hex(view(arguments.id), question.id) ? nullptr : &kIdInvalid;
    }

    if (has_header) {
        return nullptr;
    }

    if (r->method != NGX_HTTP_DELETE || question.scope.count == 0) {
        return &kKeyMissing;
    }

    question.kind = AdminQuestion::Kind::erase;
    return nullptr;
}

bool is_change_confirmed(ngx_http_request_t *r)
{
    ngx_table_elt_t *field = find_field(r->headers_in.headers, "Idempotency-Admin");

    return field != nullptr && view(field->value) == "1";
}

bool read_erasure(const ngx_str_t &text, std::uint64_t &id)
{
    ngx_int_t value = ngx_hextoi(text.data, text.len);

    id = static_cast<std::uint64_t>(value);
    return value != NGX_ERROR && value != 0;
}

// Whether the arguments fit the method.
bool read_options(ngx_http_request_t *r, const Arguments &given, AdminQuestion &question)
{
    bool reads = (r->method & (NGX_HTTP_GET | NGX_HTTP_HEAD)) != 0;

    if (given.show.data != nullptr) {
        question.shows_answer = view(given.show) == "answer";

        if (!reads || !question.shows_answer) {
            return false;
        }
    }

    if (given.force.data != nullptr) {
        question.force = view(given.force) == "1";

        if (r->method != NGX_HTTP_DELETE || (!question.force && view(given.force) != "0")) {
            return false;
        }
    }

    if (given.erasure.data != nullptr) {
        question.kind = AdminQuestion::Kind::show_erasure;
        return reads && given.id.data == nullptr && given.show.data == nullptr
               && read_erasure(given.erasure, question.erasure);
    }

    if (r->method == NGX_HTTP_POST) {
        question.kind = AdminQuestion::Kind::settle;
        question.is_not_kept = view(given.outcome) == "not_kept";
        return question.is_not_kept || view(given.outcome) == "released";
    }

    if (r->method == NGX_HTTP_DELETE) {
        question.kind = AdminQuestion::Kind::forget;
    }

    return given.outcome.data == nullptr;
}

}  // namespace

const AdminProblem *read_admin_question(ngx_http_request_t *r, AdminQuestion &question)
{
    constexpr ngx_uint_t reading = NGX_HTTP_GET | NGX_HTTP_HEAD;
    constexpr ngx_uint_t changing = NGX_HTTP_POST | NGX_HTTP_DELETE;
    Arguments arguments;

    if ((r->method & (reading | changing)) == 0) {
        return &kMethod;
    }

    if ((r->method & changing) != 0 && !is_change_confirmed(r)) {
        return &kHeaderMissing;
    }

    const AdminProblem *problem = read_arguments(r, arguments);

    if (problem == nullptr && !read_options(r, arguments, question)) {
        problem = &kParameter;
    }

    if (problem == nullptr) {
        problem = read_store(r, arguments.store, question.slot);
    }

    if (problem == nullptr && question.kind != AdminQuestion::Kind::show_erasure) {
        problem = read_named_key(r, arguments, question);
    }

    if (problem == nullptr && question.kind == AdminQuestion::Kind::erase && question.force) {
        problem = &kParameter;
    }

    return problem;
}

}  // namespace idempotency
