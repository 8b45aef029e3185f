package IdempotencyTest::Certificates;

# Certificates that a test makes with openssl(1): an authority, and certificates that it signs. Files are in a directory
# that is removed with the object.

use strict;
use warnings;

use IdempotencyTest::Files qw(slurp);
use IdempotencyTest::Process qw(temporary_directory);

sub new {
    my ($class, %options) = @_;
    my $self = bless {name => 'Authority of the test', made => 0, directory => temporary_directory(), %options}, $class;
    my $directory = $self->{directory};

    $self->write_file('authority.cnf', <<"END");
[ca]
default_ca = authority
[authority]
database = $directory/index.txt
new_certs_dir = $directory
default_md = sha256
policy = any
rand_serial = yes
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
END
    $self->write_file('index.txt', '');

    $self->openssl('req', '-x509', '-config', "$directory/authority.cnf", '-extensions', 'root', new_key("$directory/authority.key"),
        '-subj', "/CN=$self->{name}", '-days', '30', '-out', $self->authority);
    return $self;
}

# The certificate that a client has to trust.
sub authority { "$_[0]{directory}/authority.pem" }

# A reference to {certificate, key, authority}, each the name of a file. `names`: such as DNS:redis.test or IP:127.0.0.1;
# `common_name`; `expired`; `usage`: clientAuth or serverAuth.
sub sign {
    my ($self, %options) = @_;
    my $base = "$self->{directory}/" . ++$self->{made};
    my $names = join ',', @{$options{names} || []};
    my ($from, $to) = $options{expired} ? ('20200101000000Z', '20200201000000Z') : ('20200101000000Z', '20991231000000Z');

    $self->openssl('req', '-new', '-config', "$self->{directory}/authority.cnf", new_key("$base.key"),
        '-subj', '/CN=' . ($options{common_name} // 'of the test'), '-out', "$base.csr");

    my $extensions = 'extendedKeyUsage = ' . ($options{usage} // 'serverAuth,clientAuth') . "\nauthorityKeyIdentifier = keyid\n";
    $extensions .= "subjectAltName = $names\n" if length $names;
    $self->write_file("$self->{made}.ext", $extensions);

    $self->openssl('ca', '-batch', '-notext', '-config', "$self->{directory}/authority.cnf", '-cert', $self->authority,
        '-keyfile', "$self->{directory}/authority.key", '-startdate', $from, '-enddate', $to,
        '-extfile', "$base.ext", '-in', "$base.csr", '-out', "$base.pem");

    return {certificate => "$base.pem", key => "$base.key", authority => $self->authority};
}

# For localhost and the loopback addresses, unless other names are given.
sub server {
    my ($self, @names) = @_;
    return $self->sign(names => [@names ? @names : qw(DNS:localhost IP:127.0.0.1 IP:::1)], usage => 'serverAuth,clientAuth');
}

sub expired_server { my ($self) = @_; return $self->sign(names => [qw(DNS:localhost IP:127.0.0.1)], expired => 1) }
sub client { my ($self, $name) = @_; return $self->sign(common_name => $name // 'client of the test', usage => 'clientAuth') }

sub new_key { return '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-keyout', $_[0] }

sub write_file {
    my ($self, $name, $content) = @_;
    return IdempotencyTest::Files::write_file("$self->{directory}/$name", $content);
}

sub openssl {
    my ($self, @arguments) = @_;
    my $output = "$self->{directory}/output";
    my $process = IdempotencyTest::Process->start(name => 'openssl', output => $output, command => ['/usr/bin/openssl', @arguments]);

    IdempotencyTest::Process::await(sub { !$process->is_running });
    die "openssl @arguments:\n" . slurp($output) if $process->{status} // 1;
}

1;
