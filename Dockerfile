# For those who build with docker. The image that is tested and published is made
# by `make image` (e2e/image) from these same files, which it leaves in build/image;
# our CI has no docker, and so cannot build this.
#
#   make image && docker buildx build --platform linux/amd64,linux/arm64 -t ballast .
FROM scratch
ARG TARGETARCH
COPY build/image/${TARGETARCH}/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY build/image/${TARGETARCH}/ballast /ballast
USER 2000000000:2000000000
ENTRYPOINT ["/ballast"]
