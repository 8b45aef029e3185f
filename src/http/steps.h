// The path of a request, step by step; each has a file of its own.

#pragma once

#include "store/nginx.h"

#include "core/coverage.h"
#include "http/context.h"
#include "http/exchange.h"

namespace idempotency {

// gate.cpp: the phase handler, in which a request arrives and comes back after
// each wait.
ngx_int_t on_request(ngx_http_request_t *r);
ngx_int_t on_request_led_on(ngx_http_request_t *r);

// body_digest.cpp: takes the digest of the body while it arrives.
void install_body_digest();
ngx_int_t read_body(Context &context);

// claim.cpp: asks the store, and does what its reply says.
ngx_int_t claim_key(Context &context);
ngx_int_t heed_reply(Context &context);
void on_claim_answered(Context &context);

// replay.cpp: answers with a kept answer.
ngx_int_t replay(Context &context, const Record &record);

// problem.cpp: answers with one of the module's own.
enum class Problem {
    key_missing,
    scope_missing,
    key_invalid,
    key_reused,
    in_progress,
    outcome_unknown,
    response_not_kept,
    store_unavailable,
    answer_incomplete,
};

// In a phase handler; gives what the handler has to return.  `wait`: what the
// client is told in Retry-After, in milliseconds; 0: nothing.
ngx_int_t refuse(Context &context, Status status, Problem problem, Millis wait);

// In place of an answer that was held back; gives what a body filter returns.
ngx_int_t send_problem(ngx_http_request_t *r, const LocationConfig &conf, Problem problem);

// guard.cpp: sees to it that the exchange with the application runs to its end,
// and that nginx takes it to one server only.
bool find_upstream_modules(ngx_conf_t *cf, ngx_array_t &indices);

// While a location's configurations are merged: which content handlers take a
// request to an upstream.
void learn_exchanging(ngx_conf_t *cf, const ngx_array_t &indices);
void guard_upstream(Context &context);
void guard_subrequest(ngx_http_request_t *r);
Origin origin_of(const Context &context);

// redirect.cpp: a redirect within nginx, while the claim is held.
void go_along(Context &context);

// quic.cpp: the exchange outlasts the client's QUIC connection.
void outlast_quic(ngx_http_request_t *r);

// early_hints.cpp: and a 103 that nobody takes.
void install_early_hints();

// stream_reset.cpp: a client that resets its stream before its answer is sent.
void outlast_reset(ngx_http_request_t *r);
void recall_reset(Context &context);

// capture.cpp: holds the answer back until the claim is settled by it.
void install_capture();

// deliver.cpp: the answer goes on to the client.
ngx_int_t deliver(Context &context);
ngx_int_t let_pass(Context &context, ngx_chain_t *rest);
void on_settled(Context &context);
void on_idle_stream(ngx_event_t *event);
void consume(ngx_buf_t *b);

// subrequest.cpp: what a claimed request is made of besides.
bool has_subrequests(ngx_http_request_t *r);
ngx_int_t let_pass_ahead(Context &context, ngx_chain_t *rest);
ngx_int_t on_subrequest_body(ngx_http_request_t *r, ngx_chain_t *in);

// passing.cpp: the answer goes on as it comes; a client that is gone does not end
// the exchange.
void watch_client(Context &context);
void on_client_gone(Context &context);
ngx_int_t pass(Context &context, ngx_chain_t *in);
void consume_all(ngx_chain_t *in);

// A bit of r->buffered that modules may use; nginx's image filter has the same.
constexpr unsigned kBuffered = 0x08;

// ill_formed.cpp: a body that can't be read is told as one that broke off.
void expect_ill_formed(Context &context);

// gone.cpp: the request is no more, with or without an answer.
void on_request_gone(Context &context);

// fields.cpp: an answer's fields as a record has them.
bool write_answer(ngx_http_request_t *r, Exchange &exchange, const LocationConfig &conf,
                  Millis lifetime);
ngx_int_t restore_answer(ngx_http_request_t *r, const Record &record);
ngx_table_elt_t *add_field(ngx_http_request_t *r, std::string_view name, std::string_view value);
bool is_word(const ngx_table_elt_t &field);
void take_word(ngx_http_request_t *r, const LocationConfig &conf, Word &word);

// status_page.cpp: the content handler of `idempotency_status`.
ngx_int_t tell_status(ngx_http_request_t *r);

// variables.cpp
ngx_int_t add_variables(ngx_conf_t *cf);

// The filters behind this module's.
extern ngx_http_output_header_filter_pt next_header_filter;
extern ngx_http_output_body_filter_pt next_body_filter;

}  // namespace idempotency
