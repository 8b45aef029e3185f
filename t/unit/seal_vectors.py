#!/usr/bin/env python3
# The test vector of docs/format.md and t/unit/key_ring.cpp, computed by another
# implementation (python3-cryptography) from what docs/format.md says.

import hashlib
import hmac
import struct
import zlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


def derive(secret, purpose, size):
    info = b'ngx_http_idempotency_module ' + purpose
    return HKDF(hashes.SHA256(), size, None, info).derive(secret)


def hmac_sha256(key, text):
    return hmac.new(key, text, hashlib.sha256).digest()


# of a scope with one value
def key_id(value, key):
    return hashlib.sha256(b'S\x01' + struct.pack('>Q', len(value)) + value + b'K' + key).digest()


def record(raw_id, token):
    status_line = struct.pack('>H', 0)
    header = b'\0' + struct.pack('>HI', 12, 16) + b'Content-Type' + b'application/json'
    fields = status_line + header
    body = b'{"id":1}'
    head = (b'IDM\x01\0\0\0K' + struct.pack('>Q', token) + b'\xab' * 32
            + struct.pack('>QQ', 1700000000123, 86400000)
            + struct.pack('>HHII', 201, 1, len(fields), len(body)))
    checksum = 0
    for part in (body, fields, head[:8], head[16:], raw_id):
        checksum = zlib.crc32(part, checksum)
    return head + struct.pack('>I', checksum) + fields + body


def main():
    secret = bytes(range(32))
    token = 1700000000000001
    nonce = bytes(range(0xa0, 0xac))

    tag = derive(secret, b'key tag', 8)
    naming = derive(secret, b'naming', 32)
    sealing = derive(secret, b'sealing', 32)
    raw_id = key_id(b'YOUR_API_KEY', b'uuid-abc-123')
    identity = hmac_sha256(naming, raw_id)
    record_key = hmac_sha256(sealing, identity)
    plain = record(raw_id, token)
    clear = b'IDM\x02\0\0\0K'
    associated = clear + tag + identity
    sealed = (clear + struct.pack('>Q', token) + tag + nonce
              + AESGCM(record_key).encrypt(nonce, plain, associated))

    for name, value in (('secret', secret), ('key tag', tag), ('naming', naming),
                        ('sealing', sealing), ('key id', raw_id), ('identity', identity),
                        ('record key', record_key), ('nonce', nonce), ('record', plain),
                        ('associated', associated), ('sealed', sealed)):
        print(f'{name:10} {value.hex()}')


if __name__ == '__main__':
    main()
