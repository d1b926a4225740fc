// A service with SkyWalking's own Node agent: answers with its name, or asks the next one first.
//
// The request says who is next: /relay?next=URL. The agent takes its settings from SW_AGENT_*.
'use strict';

// The agent wraps `http` when that is loaded, so it comes first.
require('skywalking-backend-js').default.start();
const http = require('http');

const answer = (response, body) => {
  response.writeHead(200, { 'Content-Length': Buffer.byteLength(body) });
  response.end(body);
};

const server = http.createServer((request, response) => {
  const next = new URL(request.url, 'http://relay').searchParams.get('next');
  if (!next) {
    answer(response, 'node');
    return;
  }
  const call = http.request(next, (reply) => {
    let body = 'node ';
    reply.setEncoding('utf8');
    reply.on('data', (chunk) => { body += chunk; });
    reply.on('end', () => answer(response, body));
  });
  call.on('error', (error) => {
    response.writeHead(502);
    response.end(String(error));
  });
  call.end();
});

const [host, port] = process.argv[2].split(':');
server.listen(Number(port), host, () => console.log(`node listens on http://${host}:${port}`));
