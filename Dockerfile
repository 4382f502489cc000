# A static binary and nothing else, run by nobody in particular.
#
#   docker build -t gitlab_runner_fleet_exporter .
#   docker run -p 9756:9756 -v fleet:/data -e GITLAB_TOKEN gitlab_runner_fleet_exporter --gitlab.url=https://gitlab.example.com
FROM docker.io/library/golang:1.26 AS build
WORKDIR /src
COPY . .
ARG VERSION=unknown
ARG REVISION=unknown
ARG BUILD_DATE=unknown
RUN CGO_ENABLED=0 go build -trimpath -buildvcs=false -o /out/gitlab_runner_fleet_exporter \
      -ldflags "-s -w -X github.com/prometheus/common/version.Version=${VERSION} -X github.com/prometheus/common/version.Revision=${REVISION} -X github.com/prometheus/common/version.BuildDate=${BUILD_DATE}" . \
    && mkdir -p /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/gitlab_runner_fleet_exporter /gitlab_runner_fleet_exporter
# A new volume takes over the owner of what it covers.
COPY --from=build --chown=65532:65532 /out/data /data
# A variable and not an argument, so that arguments of `docker run` leave it in place.
ENV GITLAB_RUNNER_FLEET_STORAGE_PATH=/data
USER 65532:65532
VOLUME /data
EXPOSE 9756
ENTRYPOINT ["/gitlab_runner_fleet_exporter"]
