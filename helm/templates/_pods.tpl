{{/* What all pods have in common. */}}

{{- define "omma.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "omma.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Where pods may run: (dict "root" . "component" "shard" "values" .Values.shard). */}}
{{- define "omma.scheduling" -}}
{{- $selector := include "omma.selector" . -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
affinity:
{{- if .values.affinity }}
  {{- toYaml .values.affinity | nindent 2 }}
{{- else }}
  podAntiAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          labelSelector:
            matchLabels:
              {{- $selector | nindent 14 }}
{{- end }}
{{- if .root.Values.zoneSpread.enabled }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ .root.Values.zoneSpread.topologyKey }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- $selector | nindent 8 }}
{{- end }}
{{- end -}}

{{- define "omma.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end -}}
{{- end -}}

{{/* Started: it answers, and what was on disk is read. Alive: its event loop answers. Ready: it can serve or forward,
     whatever the rest of the cluster does. (dict "startup" SECONDS) */}}
{{- define "omma.probes" -}}
startupProbe:
  httpGet: {path: /startupz, port: admin}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: {{ div (int .startup) 2 }}
livenessProbe:
  httpGet: {path: /livez, port: admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: admin}
  periodSeconds: 3
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{/* The environment of a server: (dict "root" . "component" "shard"). */}}
{{- define "omma.env" -}}
{{- $tls := .root.Values.tls -}}
- name: OMMA_LOG
  value: {{ .root.Values.telemetry.log | quote }}
- name: OMMA_TRACE_SAMPLE
  value: {{ .root.Values.telemetry.traceSample | quote }}
{{- if $tls.enabled }}
- name: OMMA_PEER_TLS_CERT
  value: /etc/omma/tls-peer/tls.crt
- name: OMMA_PEER_TLS_KEY
  value: /etc/omma/tls-peer/tls.key
- name: OMMA_PEER_TLS_CA
  value: /etc/omma/tls-peer/ca.crt
{{- else }}
- name: OMMA_INSECURE_PLAINTEXT
  value: "true"
{{- end }}
{{- end -}}

{{/* The flags of a server that both have. */}}
{{- define "omma.args" -}}
{{- if .Values.telemetry.logJson -}}
- --log-json
{{- end }}
{{- with .Values.telemetry.otlpEndpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
{{- end -}}

{{/* How the command line reaches the API: environment, then mounts and volumes. */}}
{{- define "omma.cliEnv" -}}
- name: OMMA_ENDPOINT
  value: {{ include "omma.endpoint" . }}
{{- if .Values.tls.enabled }}
- name: OMMA_CA
  value: /etc/omma/tls-public/ca.crt
{{- end }}
{{- if .Values.auth.enabled }}
- name: OMMA_API_KEY
  valueFrom:
    secretKeyRef: {name: {{ include "omma.keysSecret" . }}, key: admin}
{{- end }}
{{- end -}}

{{- define "omma.cliMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if .Values.tls.enabled }}
- {name: tls-public, mountPath: /etc/omma/tls-public, readOnly: true}
{{- end }}
{{- end -}}

{{/* The authority alone: the command line has no use for the key. */}}
{{- define "omma.cliVolumes" -}}
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if .Values.tls.enabled }}
- name: tls-public
  secret:
    secretName: {{ include "omma.tlsSecret" (dict "root" . "name" "public") }}
    items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end -}}

{{- define "omma.cliResources" -}}
requests: {cpu: 50m, memory: 64Mi}
limits: {memory: 256Mi}
{{- end -}}
