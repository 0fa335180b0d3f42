<?php
// PHP's own xmlrpc_encode_request over a stream. Arguments: HOST:PORT, CA file, password.
error_reporting(E_ALL & ~E_DEPRECATED);
[, $address, $ca_file, $password] = $argv;

function call(string $method, array $params = [])
{
    global $address, $ca_file, $password;
    $context = stream_context_create([
        'http' => [
            'method' => 'POST',
            'header' => ['Content-Type: text/xml',
                         'Authorization: Basic ' . base64_encode("admin:$password")],
            'content' => xmlrpc_encode_request($method, $params, ['encoding' => 'UTF-8']),
        ],
        'ssl' => ['cafile' => $ca_file, 'verify_peer' => true, 'verify_peer_name' => true],
    ]);
    return xmlrpc_decode(file_get_contents("https://$address/RPC2", false, $context), 'UTF-8');
}

function check(string $what, bool $holds): void
{
    if (!$holds) {
        fwrite(STDERR, "$what\n");
        exit(1);
    }
}

$methods = call('system.listMethods');
check('job_exec', in_array('job_exec', $methods, true));
check('node_list', call('job_exec', ['node_list'])['result_output']['11']['name'] === 'n11');
$value = ['text' => 'gruesse <&>', 'list' => [1, 2.5, true]];
$set = call('job_exec', ['config_set', ['params' => ['path' => 'app/php', 'value' => $value]]]);
check('config_set', $set['result_revision'] > 1);
$got = call('job_exec', ['config_get', ['params' => ['path' => 'app/php']]]);
check('config_get', $got['result_output'] == $value);
$id = call('job_start', ['node_state', ['params' => ['x' => null]]]);
check('unknown parameter', xmlrpc_is_fault($id) && $id['faultCode'] === -32002);
$id = call('job_start', ['node_state']);
while (!call('job_wait', [$id])) {
}
check('node_state', call('job_result', [$id])['result_output']['11'] === 'online');
$fault = call('job_exec', ['no_such_job']);
check('fault', xmlrpc_is_fault($fault) && $fault['faultCode'] === -32001);
echo 'php: ', count($methods), " methods\n";
