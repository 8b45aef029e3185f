#include "http/exchange/grpc_request.h"

#include "core/grpc.h"
#include "nginx/list.h"

namespace idempotency {

bool is_grpc_request(ngx_http_request_t *r)
{
    return r->headers_in.content_type != nullptr
           && grpc_kind(view(r->headers_in.content_type->value)) != GrpcKind::none;
}

ngx_table_elt_t *find_grpc_timeout(ngx_http_request_t *r)
{
    return find_field(r->headers_in.headers, "grpc-timeout");
}

// A field can't be taken out of the list, since other pointers lead to its neighbours.  So it gets
// the name of a field that the gRPC module and the proxy module never pass on.
void hide_grpc_timeout(Context &context)
{
    ngx_http_request_t *r = context.request;

    if (!is_grpc_request(r)) {
        return;
    }

    while (ngx_table_elt_t *field = find_grpc_timeout(r)) {
        static char name[] = "keep-alive";

        context.grpc_timeout = field->value;
        field->key = to_ngx(name);
        field->lowcase_key = field->key.data;
        field->hash = ngx_hash_key(field->key.data, field->key.len);
        ngx_str_set(&field->value, "");
    }
}

}  // namespace idempotency
