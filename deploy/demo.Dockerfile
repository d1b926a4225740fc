# The demo's services, which know nothing of skyprobe, from the root of the repository:
# docker build -f deploy/demo.Dockerfile -t skyprobe-demo:0.1.0 .
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY tests/targets/go/demo .
RUN CGO_ENABLED=0 go build -o /out/ ./gateway ./user-service ./order-service ./visitor

FROM scratch
LABEL org.opencontainers.image.title="skyprobe-demo" \
      org.opencontainers.image.description="Three small Go services and a visitor, for skyprobe to trace" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0"
COPY --from=build /out/ /usr/bin/
ENV PATH=/usr/bin
USER 65532:65532
# Which of them says whoever runs it: gateway, user-service, order-service or visitor.
CMD ["gateway"]
