#include "http/request/gate.h"

#include <new>

#include "core/coverage.h"
#include "http/answer/problem.h"
#include "http/exchange/exchange.h"
#include "http/exchange/guard.h"
#include "http/exchange/redirect.h"
#include "http/request/body_digest.h"
#include "http/request/claim.h"
#include "http/request/observe.h"
#include "http/request/replay.h"
#include "nginx/list.h"
#include "nginx/log_limit.h"

namespace idempotency {

namespace {

bool is_covered_method(const MethodSet &methods, ngx_http_request_t *r)
{
    if ((methods.bits & r->method) != 0) {
        return true;
    }

    auto *name = static_cast<ngx_str_t *>(methods.names.elts);

    for (ngx_uint_t i = 0; i < methods.names.nelts; i++) {
        if (view(name[i]) == view(r->method_name)) {
            return true;
        }
    }

    return false;
}

// Finds the key in the request headers, or evaluates it.  `count`: the number of
// headers; `value`: of the last one.  False if its value can't be evaluated.
bool find_key(ngx_http_request_t *r, const KeySource &source, unsigned &count, ngx_str_t &value)
{
    count = 0;

    if (source.header.len == 0) {
        if (ngx_http_complex_value(r, source.value, &value) != NGX_OK) {
            return false;
        }

        count = value.len > 0 ? 1 : 0;
        return true;
    }

    for (ngx_table_elt_t &field : HeaderFields(r->headers_in.headers)) {
        if (has_name(field, view(source.header))) {
            value = field.value;
            count++;
        }
    }

    return true;
}

ngx_int_t pass_uncovered(ngx_http_request_t *r, LocationConfig *conf, Status status)
{
    return create_context(r, conf, status) != nullptr ? NGX_DECLINED
                                                      : NGX_HTTP_INTERNAL_SERVER_ERROR;
}

ngx_int_t refuse_uncovered(ngx_http_request_t *r, LocationConfig *conf, Status status)
{
    Context *context = create_context(r, conf, status);

    return context != nullptr ? refuse_request(*context, status, 0)
                              : NGX_HTTP_INTERNAL_SERVER_ERROR;
}

ngx_int_t start_covered_request(ngx_http_request_t *r, LocationConfig *conf, const Scope &scope,
                                std::string_view key)
{
    KeyId id;

    if (!main_config(r)->digester->key_id(scope, key, id)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    Context *context = create_context(r, conf, Status::none);

    if (context == nullptr) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    context->scope = scope;
    context->exchange = Exchange::create(*context, id);

    if (context->exchange == nullptr) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return conf->fingerprint_body ? read_body(*context) : claim_key(*context);
}

// Null: `idempotency_scope off`.  False if a value can't be evaluated or there is no memory.
bool evaluate_scope(ngx_http_request_t *r, const ScopeSource *source, Scope &scope)
{
    scope = {ScopeKind::global, nullptr, 0};

    if (source == nullptr) {
        return true;
    }

    auto **value = static_cast<ngx_http_complex_value_t **>(source->parts.elts);
    ngx_uint_t count = source->parts.nelts;
    auto *parts =
        static_cast<std::string_view *>(ngx_palloc(r->pool, count * sizeof(std::string_view)));

    if (parts == nullptr) {
        return false;
    }

    for (ngx_uint_t i = 0; i < count; i++) {
        ngx_str_t text;

        if (ngx_http_complex_value(r, value[i], &text) != NGX_OK) {
            return false;
        }

        new (&parts[i]) std::string_view(view(text));
    }

    scope = {ScopeKind::parts, parts, count};
    return true;
}

// Logs at most one line per second in each worker.  Scope values and the key are secrets,
// so only the names of the empty values are logged.
void log_empty_scope(ngx_http_request_t *r, const ScopeSource &source, const Scope &scope,
                     const char *consequence)
{
    static LogLimit limit;

    if (!limit.allows()) {
        return;
    }

    auto **value = static_cast<ngx_http_complex_value_t **>(source.parts.elts);
    u_char names[512];
    u_char *end = names;

    for (std::size_t i = 0; i < scope.count; i++) {
        if (scope.parts[i].empty()) {
            end = ngx_slprintf(end, names + sizeof(names), end == names ? "%V" : " %V",
                               &value[i]->value);
        }
    }

    ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                  "idempotency: the scope is empty: no value for %*s in \"idempotency_scope\": a "
                  "request with an idempotency key %s; set \"idempotency_scope\" to a variable "
                  "that identifies the client in each such request, or to \"off\" (%ui more such "
                  "requests since the last message)",
                  static_cast<size_t>(end - names), names, consequence, limit.take_suppressed());
}

ngx_int_t check_coverage(ngx_http_request_t *r, LocationConfig *conf)
{
    Examination examination;

    if (conf->observe) {
        observe(r, conf);
        return NGX_DECLINED;
    }

    if (!examine(r, *conf, examination)) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (examination.coverage == Coverage::uncovered) {
        return NGX_DECLINED;
    }

    if (examination.coverage == Coverage::covered) {
        return start_covered_request(r, conf, examination.scope, examination.key.value);
    }

    Status status = status_of(examination.coverage);

    return is_refused(examination.coverage) ? refuse_uncovered(r, conf, status)
                                            : pass_uncovered(r, conf, status);
}

// `try_files` may redirect the request to another location, and the access checks of
// that location have not run yet.  So the key is claimed only after `try_files`.
bool has_try_files(ngx_http_request_t *r)
{
    ngx_int_t index = main_config(r)->try_files;

    // the first member of ngx_http_try_files_loc_conf_t is the list of files
    return index >= 0 && *static_cast<void **>(r->loc_conf[index]) != nullptr;
}

// `context`: of the location whose `try_files` redirected the request here, or null.
ngx_int_t enter_location(ngx_http_request_t *r, Context *context)
{
    LocationConfig *conf = location_config(r);

    if (context != nullptr) {
        context->stage = Stage::inactive;

        if (conf->store == nullptr && !is_switched_off(*conf)) {
            conf = context->conf;
        }
    }

    if (conf->store == nullptr) {
        return NGX_DECLINED;
    }

    if (!is_covered_method(*conf->methods, r)) {
        return NGX_DECLINED;
    }

    if (!has_try_files(r)) {
        return check_coverage(r, conf);
    }

    context = create_context(r, conf, Status::none);

    if (context == nullptr) {
        return conf->observe ? NGX_DECLINED : NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    context->stage = Stage::before_try_files;
    return NGX_DECLINED;
}

// An internal redirect has led an observed request to a location that covers requests.  There it
// arrives, as it would without `observe`; but no request does on its way to an error page.
bool is_observed_elsewhere(const Context &context)
{
    const LocationConfig &conf = *location_config(context.request);

    return context.conf->observe && context.stage == Stage::inactive && context.error_status == 0
           && conf.store != nullptr && !conf.observe;
}

ngx_int_t resume_request(Context &context)
{
    switch (context.stage) {
    case Stage::reading_body:
        return claim_key(context);

    case Stage::claim_replied:
        return handle_claim_reply(context);

    default:
        return NGX_DECLINED;
    }
}

}  // namespace

bool examine(ngx_http_request_t *r, const LocationConfig &conf, Examination &examination)
{
    CoverageQuestion question;
    ngx_str_t key_value = ngx_null_string;

    examination.coverage = Coverage::uncovered;
    question.method_covered = true;
    question.required = conf.required;

    if (!find_key(r, *conf.key, question.key_fields, key_value)) {
        return false;
    }

    if (question.key_fields == 0) {
        conf.store->counters->add(Count::without_key);

        if (!question.required) {
            return true;
        }
    }

    question.bypass = ngx_http_test_predicates(r, conf.bypass) != NGX_OK;
    question.scope_needed = conf.scope != nullptr;

    if (!evaluate_scope(r, conf.scope, examination.scope)) {
        return false;
    }

    question.scope_empty =
        question.scope_needed && is_scope_empty(examination.scope, conf.scope->any);
    examination.key = parse_key(view(key_value), examination.key_buffer);
    question.key_fault = examination.key.fault;
    examination.coverage = decide_coverage(question);

    if (conf.scope != nullptr
        && (examination.coverage == Coverage::unscoped
            || examination.coverage == Coverage::scope_missing))
    {
        log_empty_scope(r, *conf.scope, examination.scope,
                        conf.observe ? "was observed"
                        : examination.coverage == Coverage::unscoped
                            ? "was passed without protection"
                            : "was refused");
    }

    return true;
}

Status status_of(Coverage coverage)
{
    switch (coverage) {
    case Coverage::unscoped:
    case Coverage::scope_missing:
        return Status::unscoped;
    case Coverage::key_missing:
        return Status::missing;
    case Coverage::key_invalid:
        return Status::invalid;
    case Coverage::bypassed:
        return Status::bypass;
    case Coverage::uncovered:
    case Coverage::covered:
        break;
    }

    return Status::none;
}

ngx_int_t on_request(ngx_http_request_t *r)
{
    if (r != r->main) {
        guard_subrequest(r);
        return NGX_DECLINED;
    }

    if (r->post_action) {
        return NGX_DECLINED;
    }

    Context *context = find_context(r);

    if (context != nullptr && is_observed_elsewhere(*context)) {
        end_observation(*context);
        context = nullptr;
    }

    if (context == nullptr) {
        return enter_location(r, nullptr);
    }

    switch (context->stage) {
    case Stage::before_try_files:
        return enter_location(r, context);

    case Stage::executing:
        return enter_content(*context);

    case Stage::redirecting_replay:
        return continue_replay(*context);

    case Stage::problem:
        return continue_to_error_page(*context);

    default:
        return context->barred ? enter_page(*context) : resume_request(*context);
    }
}

ngx_int_t on_request_after_try_files(ngx_http_request_t *r)
{
    Context *context = r == r->main && !r->post_action ? find_context(r) : nullptr;

    if (context == nullptr) {
        return NGX_DECLINED;
    }

    if (context->stage != Stage::before_try_files) {
        return resume_request(*context);
    }

    context->stage = Stage::inactive;
    return check_coverage(r, context->conf);
}

}  // namespace idempotency
