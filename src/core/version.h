// The version of the module.  debian/changelog has the same.

#pragma once

namespace idempotency {

constexpr const char *kVersion = "0.1.0";

}  // namespace idempotency
