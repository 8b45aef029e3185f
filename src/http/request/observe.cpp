#include "http/request/observe.h"

#include "http/observe/observation.h"
#include "http/observe/report.h"
#include "http/observe/variables_guard.h"
#include "http/request/body_digest.h"
#include "http/request/claim.h"
#include "http/request/gate.h"
#include "http/request/quota.h"

namespace idempotency {

namespace {

// Keys of their own: a response that was only observed is never replayed, whatever the
// configuration is later.
Scope observed_scope(const Scope &scope)
{
    return {scope.kind == ScopeKind::global ? ScopeKind::observed_global
                                            : ScopeKind::observed_parts,
            scope.parts, scope.count};
}

void on_claim_reply(Context &context)
{
    if (!context.observation->is_claimed()) {
        give_quota_back(context);
    }
}

// The body, if it belongs to the fingerprint, is digested.
void claim_observed(Context &context)
{
    VariablesGuard guard(context.request);
    Fingerprint fingerprint;

    if (!Observation::may_ask(*context.conf->store)) {
        return;
    }

    if (guard.usable() && compute_fingerprint(context, fingerprint) && evaluate_quota(context)) {
        context.observation->claim(fingerprint, take_quota(context), on_claim_reply);
    }
}

void observe_covered(Context &context, const Examination &examination)
{
    KeyId id;

    if (!main_config(context.request)
             ->digester->key_id(observed_scope(examination.scope), examination.key.value, id))
    {
        return;
    }

    context.observation = Observation::create(context, id);

    if (context.observation == nullptr) {
        return;
    }

    if (!context.conf->fingerprint_body) {
        claim_observed(context);
    } else {
        digest_passing_body(context, claim_observed);
    }
}

void observe_uncovered(Context &context, Coverage coverage)
{
    context.status = status_of(coverage);
    observe_status(*context.conf, context.status);

    if (is_refused(coverage)) {
        context.problem_code = observe_refusal(*context.conf, context.status, nullptr,
                                               context.request->connection->log);
    }
}

}  // namespace

void observe(ngx_http_request_t *r, LocationConfig *conf)
{
    VariablesGuard guard(r);
    Examination examination;

    if (!guard.usable() || !examine(r, *conf, examination)
        || examination.coverage == Coverage::uncovered)
    {
        return;
    }

    Context *context = create_context(r, conf, Status::none);

    if (context == nullptr) {
        return;
    }

    if (examination.coverage == Coverage::covered) {
        observe_covered(*context, examination);
    } else {
        observe_uncovered(*context, examination.coverage);
    }
}

void end_observation(Context &context)
{
    if (context.observation != nullptr) {
        context.observation->end(ObservedOutcome());
    }
}

}  // namespace idempotency
