#include "http/observe/variables_guard.h"

namespace idempotency {

VariablesGuard::VariablesGuard(ngx_http_request_t *r) : request_(r)
{
    auto *core = static_cast<ngx_http_core_main_conf_t *>(
        ngx_http_get_module_main_conf(r, ngx_http_core_module));

    size_ = core->variables.nelts * sizeof(ngx_http_variable_value_t);
    saved_ = static_cast<ngx_http_variable_value_t *>(ngx_palloc(r->pool, ngx_max(size_, 1u)));

    if (saved_ != nullptr) {
        ngx_memcpy(saved_, r->variables, size_);
    }

#if (NGX_PCRE)
    capture_count_ = r->ncaptures;
    captures_ = r->captures;
    captures_data_ = r->captures_data;
    realloc_captures_ = r->realloc_captures;

    // ngx_http_regex_exec then takes other memory for its captures
    r->realloc_captures = 1;
#endif
}

VariablesGuard::~VariablesGuard()
{
    if (saved_ != nullptr) {
        ngx_memcpy(request_->variables, saved_, size_);
    }

#if (NGX_PCRE)
    request_->ncaptures = capture_count_;
    request_->captures = captures_;
    request_->captures_data = captures_data_;
    request_->realloc_captures = realloc_captures_;
#endif
}

}  // namespace idempotency
