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

void observe_plainly(Context &context, Status status)
{
    context.status = status;
    observe_status(*context.conf, status);
}

void observe_refused(Context &context, Status status, Problem problem)
{
    observe_plainly(context, status);
    observe_refusal(context, problem, nullptr);
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

    switch (examination.coverage) {
    case Coverage::uncovered:
        break;
    case Coverage::bypassed:
        observe_plainly(*context, Status::bypass);
        break;
    case Coverage::unscoped:
        observe_plainly(*context, Status::unscoped);
        break;
    case Coverage::key_missing:
        observe_refused(*context, Status::missing, Problem::key_missing);
        break;
    case Coverage::scope_missing:
        observe_refused(*context, Status::unscoped, Problem::scope_missing);
        break;
    case Coverage::key_invalid:
        observe_refused(*context, Status::invalid, Problem::key_invalid);
        break;
    case Coverage::covered:
        observe_covered(*context, examination);
        break;
    }
}

void end_observation(Context &context)
{
    if (context.observation != nullptr) {
        context.observation->end(ObservedOutcome());
    }
}

}  // namespace idempotency
