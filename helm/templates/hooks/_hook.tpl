{{/* (dict "on" "pre-install" "weight" 0): gone once it has succeeded, there to look at if it failed. */}}
{{- define "omma.hook" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}
