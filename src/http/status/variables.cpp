#include "http/status/variables.h"

#include "http/exchange/context.h"
#include "http/exchange/exchange.h"
#include "http/exchange/grpc_request.h"
#include "http/observe/observation.h"

namespace idempotency {

namespace {

const char *name_of(Status status)
{
    switch (status) {
    case Status::none:
        break;
    case Status::fresh:
        return "NEW";
    case Status::replayed:
        return "REPLAYED";
    case Status::in_progress:
        return "IN_PROGRESS";
    case Status::reused:
        return "REUSED";
    case Status::missing:
        return "MISSING";
    case Status::invalid:
        return "INVALID";
    case Status::unknown:
        return "UNKNOWN";
    case Status::not_kept:
        return "NOT_KEPT";
    case Status::store_error:
        return "STORE_ERROR";
    case Status::bypass:
        return "BYPASS";
    case Status::unscoped:
        return "UNSCOPED";
    case Status::quota:
        return "QUOTA";
    }

    return "";
}

ngx_int_t set_not_found(ngx_http_variable_value_t *value)
{
    value->not_found = 1;
    return NGX_OK;
}

ngx_int_t set_value(ngx_http_variable_value_t *value, const void *data, size_t length)
{
    value->data = static_cast<u_char *>(const_cast<void *>(data));
    value->len = static_cast<unsigned>(length) & 0xfffffff;
    value->valid = 1;
    value->no_cacheable = 0;
    value->not_found = 0;
    return NGX_OK;
}

ngx_int_t get_status(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);
    const char *name = context != nullptr ? name_of(context->status) : "";

    return *name != '\0' ? set_value(value, name, ngx_strlen(name)) : set_not_found(value);
}

template <typename Format>
ngx_int_t set_formatted(ngx_http_request_t *r, ngx_http_variable_value_t *value, size_t capacity,
                        Format format)
{
    auto *buffer = static_cast<u_char *>(ngx_pnalloc(r->pool, capacity));

    if (buffer == nullptr) {
        return NGX_ERROR;
    }

    return set_value(value, buffer, static_cast<size_t>(format(buffer) - buffer));
}

ngx_int_t set_number(ngx_http_request_t *r, ngx_http_variable_value_t *value, std::uint64_t number)
{
    return set_formatted(r, value, NGX_INT64_LEN, [number](u_char *buffer) {
        return ngx_sprintf(buffer, "%uL", static_cast<uint64_t>(number));
    });
}

ngx_int_t get_outcome(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);
    Outcome outcome = Outcome::none;

    if (context != nullptr && context->exchange != nullptr) {
        outcome = context->exchange->outcome();
    } else if (context != nullptr && context->observation != nullptr) {
        outcome = context->observation->outcome();
    }

    if (outcome == Outcome::none) {
        return set_not_found(value);
    }

    const char *name = outcome_name(outcome);

    return set_value(value, name, ngx_strlen(name));
}

ngx_int_t get_code(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);

    if (context == nullptr || context->problem_code == nullptr) {
        return set_not_found(value);
    }

    return set_value(value, context->problem_code, ngx_strlen(context->problem_code));
}

ngx_int_t get_store(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);

    if (context == nullptr || context->status == Status::none) {
        return set_not_found(value);
    }

    return set_value(value, context->conf->store->name.data, context->conf->store->name.len);
}

ngx_int_t get_since(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);

    if (context == nullptr || context->status != Status::replayed) {
        return set_not_found(value);
    }

    return set_number(r, value, static_cast<std::uint64_t>(context->since / 1000));
}

ngx_int_t get_age(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);

    if (context == nullptr || context->status != Status::replayed) {
        return set_not_found(value);
    }

    return set_number(r, value, static_cast<std::uint64_t>(context->age / 1000));
}

// Null if the request was not covered, and would not be.
const KeyId *key_id_of(const Context *context)
{
    if (context == nullptr || (context->exchange == nullptr && context->observation == nullptr)) {
        return nullptr;
    }

    return context->exchange != nullptr ? &context->exchange->id() : &context->observation->id();
}

ngx_int_t get_store_time(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);

    if (key_id_of(context) == nullptr) {
        return set_not_found(value);
    }

    return set_formatted(r, value, NGX_INT64_LEN + sizeof(".000000"), [context](u_char *buffer) {
        return ngx_sprintf(buffer, "%uL.%06uL",
                           static_cast<uint64_t>(context->store_time / 1000000),
                           static_cast<uint64_t>(context->store_time % 1000000));
    });
}

ngx_int_t get_key_id(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);

    const KeyId *id = key_id_of(context);

    if (id == nullptr) {
        return set_not_found(value);
    }

    return set_formatted(r, value, kHexLength, [context, id](u_char *buffer) {
        write_hex(context->conf->store->store->stored_id(*id), reinterpret_cast<char *>(buffer));
        return buffer + kHexLength;
    });
}

ngx_int_t get_token(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);

    if (context == nullptr || context->exchange == nullptr || context->exchange->token() == 0) {
        return set_not_found(value);
    }

    return set_number(r, value, context->exchange->token());
}

// nginx's own variable would not find the header of a covered request
// (http/exchange/grpc_request.h), but `grpc_set_header grpc-timeout $http_grpc_timeout` sends it.
ngx_int_t get_grpc_timeout(ngx_http_request_t *r, ngx_http_variable_value_t *value, uintptr_t)
{
    Context *context = find_context(r->main);
    ngx_str_t timeout = ngx_null_string;

    if (context != nullptr && context->grpc_timeout.len > 0) {
        timeout = context->grpc_timeout;
    } else if (ngx_table_elt_t *field = find_grpc_timeout(r)) {
        timeout = field->value;
    }

    return timeout.data != nullptr ? set_value(value, timeout.data, timeout.len)
                                   : set_not_found(value);
}

ngx_http_variable_t variables[] = {
    {ngx_string("idempotency_status"), nullptr, get_status, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
    {ngx_string("idempotency_outcome"), nullptr, get_outcome, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
    {ngx_string("idempotency_code"), nullptr, get_code, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
    {ngx_string("idempotency_store"), nullptr, get_store, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
    {ngx_string("idempotency_since"), nullptr, get_since, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
    {ngx_string("idempotency_age"), nullptr, get_age, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
    {ngx_string("idempotency_store_time"), nullptr, get_store_time, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
    {ngx_string("idempotency_key_id"), nullptr, get_key_id, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
    {ngx_string("http_grpc_timeout"), nullptr, get_grpc_timeout, 0, 0, 0},
    {ngx_string("idempotency_token"), nullptr, get_token, 0, NGX_HTTP_VAR_NOCACHEABLE, 0},
};

}  // namespace

ngx_int_t add_variables(ngx_conf_t *cf)
{
    for (ngx_http_variable_t &variable : variables) {
        ngx_http_variable_t *added = ngx_http_add_variable(cf, &variable.name, variable.flags);

        if (added == nullptr) {
            return NGX_ERROR;
        }

        added->get_handler = variable.get_handler;
    }

    return NGX_OK;
}

}  // namespace idempotency
