
define MODULE_DEFINITIONS_idempotency
BuildRequires: gcc-c++
BuildRequires: hiredis-devel
BuildRequires: libdeflate-devel
endef
export MODULE_DEFINITIONS_idempotency
