// The directives of a location: nginx's `set` callbacks, one for each directive.
// module.cpp has the table of directives.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// coverage_directives.cpp: which requests are covered, and by which key.
char *set_store(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_key(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_methods(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_scope(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_bypass(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_fingerprint(ngx_conf_t *cf, ngx_command_t *cmd, void *data);

// outcome_directives.cpp: what becomes of a claim and of a response, and for how long.
char *set_ttl(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_conflict(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_unknown(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_store_error(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_retriable(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_stream(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_max_body(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_hidden_headers(ngx_conf_t *cf, ngx_command_t *cmd, void *data);

// answer_directives.cpp: the module's own responses, the header that marks a replay, and limits for
// clients.
char *set_quota(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_answer(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_replayed_header(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_problem_base(ngx_conf_t *cf, ngx_command_t *cmd, void *data);
char *set_max_unsent(ngx_conf_t *cf, ngx_command_t *cmd, void *data);

// Sets the ngx_msec_t at cmd->offset.
char *set_time(ngx_conf_t *cf, ngx_command_t *cmd, void *data);

}  // namespace idempotency
