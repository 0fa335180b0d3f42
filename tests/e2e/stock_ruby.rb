# Ruby's XMLRPC::Client (ruby-xmlrpc). Arguments: HOST:PORT, CA file, password.
require 'openssl'
require 'xmlrpc/client'

address, ca_file, password = ARGV
host, port = address.split(':')
node = XMLRPC::Client.new3(host: host, port: Integer(port), path: '/rpc2', use_ssl: true,
                           user: 'admin', password: password)
node.http.ca_file = ca_file
node.http.verify_mode = OpenSSL::SSL::VERIFY_PEER

def check(what, holds)
  raise what unless holds
end

methods = node.call('system.listMethods')
check('job_exec', methods.include?('job_exec'))
check('node_list', node.call('job_exec', 'node_list')['result_output']['11']['name'] == 'n11')

value = { 'text' => 'grüße <&>', 'list' => [1, 2.5, true, false], 'bytes' => 'x' }
params = { 'path' => 'app/ruby', 'value' => value }
set = node.call('job_exec', 'config_set', { 'params' => params })
check("config_set: #{set}", set['result_revision'] > 1)
got = node.call('job_exec', 'config_get', { 'params' => { 'path' => 'app/ruby' } })
check("config_get: #{got}", got['result_output'] == value)

id = node.call('job_start', 'node_state', { 'params' => {} })
nil until node.call('job_wait', id)
check('node_state', node.call('job_result', id)['result_output']['11'] == 'online')

answers = node.multicall2(%w[job_list], %w[no_such_method])
check('multicall', answers[0] && answers[1][0].include?('user_create'))
check('multicall fault', answers[1][1].faultCode == -32_601)
begin
  node.call('job_exec', 'no_such_job')
  raise 'no fault'
rescue XMLRPC::FaultException => e
  check("code #{e.faultCode}", e.faultCode == -32_001)
end
puts "ruby: #{methods.length} methods"
