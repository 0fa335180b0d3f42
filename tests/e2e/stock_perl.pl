# RPC::XML (librpc-xml-perl) as its manual shows it. Arguments: HOST:PORT, CA file, password.
use strict;
use warnings;
use RPC::XML;
use RPC::XML::Client;

my ($address, $ca_file, $password) = @ARGV;
my $node = RPC::XML::Client->new(
    "https://$address/RPC2",
    useragent => [ssl_opts => {SSL_ca_file => $ca_file, verify_hostname => 1}],
);
# The client learns the realm from a 401, as LWP does it.
$node->credentials('tiebeam', 'admin', $password);
$RPC::XML::ALLOW_NIL = 1;

sub call {
    my $answer = $node->send_request(@_);
    die "no answer: $answer\n" unless ref $answer;
    return $answer;
}

my $methods = call('system.listMethods')->value;
die "no job_exec\n" unless grep { $_ eq 'job_exec' } @$methods;

my $done = call('job_exec', 'node_list')->value;
die "node_list\n" unless $done->{result_code} == 0 && $done->{result_output}{11}{name} eq 'n11';

my $value = {text => RPC::XML::string->new('gr<&>'), list => [1, 2, {three => 3}]};
my $set = call('job_exec', 'config_set', {params => {path => 'app/perl', value => $value}})->value;
die "config_set: $set->{result_desc}\n" unless $set->{result_revision} > 1;
my $got = call('job_exec', 'config_get', {params => {path => 'app/perl'}})->value;
die "config_get\n" unless $got->{result_output}{text} eq 'gr<&>'
    && $got->{result_output}{list}[2]{three} == 3;

my $id = call('job_start', RPC::XML::string->new('node_state'), {params => {}})->value;
1 until call('job_wait', RPC::XML::string->new($id), 30)->value;
my $state = call('job_result', RPC::XML::string->new($id))->value;
die "node_state\n" unless $state->{result_output}{11} eq 'online';

my $fault = call('job_exec', 'no_such_job');
die "no fault\n" unless $fault->is_fault && $fault->code == -32001;
print "perl: ", scalar @$methods, " methods\n";
